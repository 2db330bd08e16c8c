"""What probes and Prometheus are told."""

import httpx
import pytest
from prometheus_client import Gauge

from tests.vision_sr1.runtime.test_ports import HAS_IPV6
from vision_sr1.runtime.probes import Probes

SEEN = Gauge("vision_sr1_test_seen", "A metric of this process.")


def test_a_service_says_whether_it_runs_whether_it_works_and_what_it_measured():
    probes = Probes()
    url = f"http://127.0.0.1:{probes.serve('127.0.0.1', 0)}"
    SEEN.set(7)
    assert "vision_sr1_test_seen 7.0" in httpx.get(f"{url}/metrics").text
    assert httpx.get(f"{url}/healthz").status_code == 200
    reply = httpx.get(f"{url}/readyz")
    assert (reply.status_code, reply.text) == (503, "starting\n")
    probes.not_ready = ""
    assert httpx.get(f"{url}/readyz").status_code == 200
    reply = httpx.get(f"{url}/elsewhere")
    assert (reply.status_code, reply.text) == (404, "known: /metrics, /healthz, /readyz\n")


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_they_answer_at_an_ipv6_address():
    url = f"http://[::1]:{Probes().serve('::1', 0)}"
    assert httpx.get(f"{url}/healthz").status_code == 200

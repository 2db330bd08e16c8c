from bench.weights import bare_broadcast, delta_bytes


def test_the_baseline_reaches_processes_that_only_receive():
    assert bare_broadcast(size=1_000_000, receivers=1, rounds=1, bucket_bytes=2**18) > 0


def test_few_bytes_change_at_the_papers_learning_rate():
    full, changed = delta_bytes()
    assert full == 2 * 2048 * 11_008  # bfloat16
    assert 0 < changed < full / 4

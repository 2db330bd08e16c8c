"""How long a version is on its way to GPU actors: all weights, or the elements that have changed.

Changed elements are found by comparing the weights with what was sent before, which is in the host's memory: that copy
takes as long over any link, and is what a fast link saves least from.
"""

from vision_sr1.runtime.gpus import Gpu

LINKS = {"NVLink": 200.0, "PCIe": 20.0, "100 Gb/s Ethernet": 10.0, "10 Gb/s Ethernet": 1.0}  # GB/s, as reached
PINNED_COPY = 20.0  # GB/s between a GPU and pinned memory of the host
COMPARING_PASSES = 4  # over the weights in a GPU's memory: both are read, differences written and read
CHANGED = 0.14  # of the weights' bytes, positions included: docs/weights.md

ASSUMPTION = (
    f"a publication goes at {', '.join(f'{speed:g} GB/s over {link}' for link, speed in LINKS.items())}; delta sends "
    f"{CHANGED:.0%} of the bytes and reads what was sent before from host memory at {PINNED_COPY:g} GB/s"
)


def full_s(weight_bytes: int, link: float) -> float:
    """Seconds to send all weights over a link of so many GB/s."""
    return weight_bytes / (link * 1e9)


def delta_s(weight_bytes: int, link: float, gpu: Gpu) -> float:
    """Seconds to find the changed elements of weights on a GPU, and to send them."""
    return CHANGED * full_s(weight_bytes, link) + _comparing_s(weight_bytes, gpu)


def break_even(gpu: Gpu) -> float:
    """GB/s of the link below which `learner.weights.send: delta` is faster than `full`."""
    return (1 - CHANGED) / (_comparing_s(1, gpu) * 1e9)


def advice(weight_bytes: int, gpu: Gpu) -> str:
    """Seconds over each link, and where changed elements alone are faster."""
    seconds = "; ".join(
        f"{link} {full_s(weight_bytes, speed):.2g} s, changes alone {delta_s(weight_bytes, speed, gpu):.2g} s"
        for link, speed in LINKS.items()
    )
    return (
        f"a publication's time: {seconds}. learner.weights.send: delta pays over links slower than "
        f"{break_even(gpu):.1f} GB/s ({8 * break_even(gpu):.0f} Gb/s), full over faster ones"
    )


def _comparing_s(weight_bytes: int, gpu: Gpu) -> float:
    return weight_bytes / (PINNED_COPY * 1e9) + COMPARING_PASSES * weight_bytes / (gpu.bandwidth * 1e12)

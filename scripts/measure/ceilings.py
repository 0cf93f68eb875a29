"""What the card can do at most: copy bandwidth and matrix rate, measured as the steps are.

    ceilings = measure(torch.device("cuda"), torch.bfloat16)
    ceilings["copy_bytes_s"], ceilings["read_bytes_s"], ceilings["matmul_flops"]       # 3.0e12, ..., 8.0e14

Bytes and FLOPs a second.
"""

from __future__ import annotations

import torch

from measure import timing

COPY_BYTES, MATRIX = 2 << 30, 8192  # far beyond the L2 cache; large enough to fill every multiprocessor
CPU_COPY_BYTES, CPU_MATRIX = 16 << 20, 256
REPEATS = timing.Repeats(warmups=3, replays=10)


def measure(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Copy rate (bytes read plus written a second), read rate (bytes a second), matrix rate (FLOP/s), medians
    on random data.
    """
    on_card = device.type == "cuda"
    values, side = (COPY_BYTES // 2, MATRIX) if on_card else (CPU_COPY_BYTES // 2, CPU_MATRIX)
    source = torch.empty(values, dtype=torch.bfloat16, device=device).random_(0, 256)
    target = torch.empty_like(source)
    copy_us = timing.measure(lambda: target.copy_(source), lambda: None, device, REPEATS).median_us
    words = source.view(torch.int64)
    read_us = timing.measure(words.max, lambda: None, device, REPEATS).median_us
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    matmul_us = timing.measure(
        lambda: torch.mm(left, right, out=out), lambda: None, device, REPEATS
    ).median_us
    return {
        "copy_bytes_s": 2 * 2 * values / copy_us * 1e6,
        "read_bytes_s": 2 * values / read_us * 1e6,
        "matmul_flops": 2 * side**3 / matmul_us * 1e6,
    }

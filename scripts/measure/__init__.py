"""Times whole steps of one tensor-parallel rank of a decoder on the accelerator at hand
(scripts/measure_steps.py).

Reads from the ground up: shard, plan, results → batch → ops_torch, ops_triton → experts, decoder, reference →
launch, timing, ceilings → run (all that the machine with the accelerator needs: PyTorch and NumPy) ·
compositions, grid, pack, check (need h3).
"""

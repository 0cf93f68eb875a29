"""What each term of the base is expected to cost before any step was seen: from kernels and documentation.

>>> PRIOR["layers"]                             # us a layer, and how far it may be from that
(27.6, 30.0)

models/physical_base.py pulls its coefficients to these; features.base_shares splits a step's time by them.
"""

# term: (prior, scale). Times are multiples of the peak time, counts are us each. From vLLM 0.14 kernels on
# H100 (scripts/fit_kernel_priors.py): GEMMs of up to 64 tokens take 4.1 us + 1.12 x the time to read the
# weights; decode attention 11.4 us + 2.5 us a wave of grouped heads + 1.14 x the time to read the KV cache;
# so a dense layer has 4 x 4.1 + 11.4 = 27.6 us of floors, fused experts 32 us + 1.16 x, 24 more than the two
# GEMMs that they replace. What no kernel shows (small kernels of a layer, the host's work a step) is expected
# to be nothing, with a scale as wide as it may be, and what a request costs (sampling) a guess: the training
# fold decides. The sampler's is physics.SAMPLER_*. Ranks that serve meet at the two barriers of a two-shot
# all-reduce less closely than in a kernel benchmark: 3 us, as wide, was chosen after 70b's logs had shown a
# step of 5-11 us at the switch. No other number here has seen a serving log.
PRIOR = {
    "weights_us": (1.1, 0.05),
    "kv_us": (1.15, 0.15),
    "compute_excess_us": (1.0, 0.2),
    "prefill_attention_us": (1.0, 0.3),
    "all_reduce_us": (1.0, 0.3),
    "attention_waves": (2.5, 1.0),
    "layers": (27.6, 30.0),
    "moe_layers": (25.0, 10.0),
    "requests": (5.0, 5.0),
    "step": (0.0, 500.0),
    "two_shots": (3.0, 3.0),
    "sampler_us": (1.0, 0.3),
}

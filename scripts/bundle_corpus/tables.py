"""What bundle_corpus/rules.py puts into the golden bundle.

A table has a line a place: path/in/the/file  value | value | ..., each a case with that value there.
"""

ONE_MEANING = """
format                        "onnx" | "H3-bundle"
format_version                3 | 1 | 2.0 | 2e0 | "2" | true | 02
target/name                   "duration_us"
target/unit                   "s"
features                      []
features/0/index              1
features/0/name               "queue_depth" | "Kv_to_weights"
features/0/dtype              "float64"
features/0/unit               "us"
features/0/group              "compute"
features/0/formula            "kv_us / gemm_us"
terms                         []
terms/0                       "weights_ms"
routing/rule                  "moe iff num_experts >= 1"
routing/dense                 "other"
routing/moe                   "MOE"
outside_support/rule          "none"
xgboost_version               "new" | "3.2" | "v3.2.0"
DENSE/booster                 "../booster.json" | "golden.json"
DENSE/trees                   41
DENSE/support/low/0           1e6
uncertainty/levels/1          0.5
KNOWN/low/0                   0.001
KNOWN/high/0                  1000
trained_on/context_tokens/0   2e9
files/booster.json/sha256     "0000000000000000000000000000000000000000000000000000000000000000" | "abc"
files/booster.json/bytes      45222
H100/kernels/link             ""
H100/kernels/profile          "HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH"
hardware                      {}
hardware_aliases              {}
models                        {}
files                         {}
provenance                    {}
provenance/folds              [7]
"""
OTHER_PHYSICS = """
constants/gemm_efficiency            0.7
constants/sampler_latency_us         120.0
constants/activation_bytes           1.0
constants/one_shot_latency_us        9.5
constants/two_shot_bytes/0           1024
constants/attention_efficiency       0.25
H100/memory_bandwidth_bytes_s        2e12
H100/peak_bf16_flops                 5e14
H100/kernels/weights                 1.2
H100/kernels/layers                  1.2
hardware/A100/memory_bandwidth_bytes_s  1e12
hardware/B200/memory_bandwidth_bytes_s  7e12
hardware/L4/memory_bandwidth_bytes_s    2e11
DENSE/coefficients/0                 0.0
models/moe/coefficients/0            1e9
DENSE/support/high/5                 1e-9
"""
BAD_NUMBERS = """
overheads/queueing_us  NaN | Infinity | -Infinity | 1e999 | -1e999 | 11111111111111111111
overheads/queueing_us  -1111111111111111111 | -1e-300 | 1000000000.0000002
overheads/queueing_us  true | "1" | 01 | +1 | 1. | .5 | 1e | 0x1 | 1_0 | - | [1] | 1e9.5
overheads/queueing_us  9999999999999999999 | None | nul |
provenance/note        11111111111111111111 | 1e999 | NaN | -9999999999999999999
"""
GOOD_NUMBERS = """
overheads/queueing_us  9300 | 93e2 | 9.3E+3 | 0.93e4 | 9300.000000000000000000000 | -0 | -0.0 | 1e-999
overheads/queueing_us  0e999 | 1e9
provenance/note        9999999999999999999 | -0 | 1e-999 | -999999999999999999
provenance/note        1.7976931348623157e308 | null | true
constants/one_shot_latency_us  4.50000000000000000001 | 45e-1
"""
# In front of the first character of a string.
BAD_BYTES = {
    "not UTF-8": b"\xff",
    "an overlong slash": b"\xc0\xaf",
    "a surrogate in UTF-8": b"\xed\xa0\x80",
    "Latin-1": b"\xe9",
    "half a character": b"\xe2\x82",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "a control character": b"\x01",
    "a line end": b"\n",
    "a NUL": b"\x00",
}
BAD_ESCAPES = (
    *(r"\ud800", r"\udc00", r"\ud800\u0041", r"\udc00\ud800", r"\uD8", r"\x41", r"\u00g0", "\\ "),
    r"\ud800\ud800",
)
GOOD_CHARACTERS = {
    "a pair": r"\ud83d\ude00",
    "all escapes": r"\"\\\/\b\f\n\r\t\u00e9\uABCD",
    "no escape at all": r"\\ud800",
    "an accent": "é",
    "beyond 16 bits": "😀",
    "brackets": "[" * 99,
    "DEL": "\x7f",
}
BAD_LISTS = ("null", "{}", "[]", "0")
BAD_LEARNERS = """
PARAMS/base_score       "[5E-1]" | "0_0" | " 0" | 0 | null | "" | "[]" | [0]
PARAMS/base_score       ".0" | "1e-400" | "nan" | "0\\n"
PARAMS/num_class        "2" | 0 | null
PARAMS/num_target       "2" | 1 | "01"
PARAMS/num_feature      "10" | 9 | null
MODEL/gbtree_model_param/num_trees  "41" | 40 | null
MODEL/tree_info         null | [] | {}
MODEL/tree_info/0       -1 | 1 | 1000000 | 0.0 | false | null
MODEL/iteration_indptr  null | [] | [0]
MODEL/iteration_indptr/0  -1000000 | 20 | 0.0 | false | null
MODEL/trees             null | [] | {}
TREE                    null | {} | []
learner                 null | []
learner/objective/name  "reg:gamma" | null | "REG:SQUAREDERROR"
learner/gradient_booster/name  "dart" | null
learner/feature_names   null | [] | {}
learner/feature_names/0 "queue_depth" | null | "KV_to_weights"
version                 null | [3] | [3, 2, 0, 0] | [3, 2.0, 0] | [3, 2, -1] | [3, 2, 1000] | [3, 2, true]
TREE/split_type         null | {} | 0 | [1] | [null] | [0.0] | [false] | ["0"]
TREE/categories         [0] | null | {} | [null] | false | ""
TREE/categories_nodes   [0] | null | {} | [null] | false | ""
TREE/categories_segments  [0] | null | {}
TREE/categories_sizes   [0] | null | {}
"""
GOOD_LEARNERS = """
PARAMS/base_score       "0" | "[0E0]" | "0.000" | "[-0e-5]" | "0E9999"
PARAMS/boost_from_average  [] | null
learner/attributes      null | 7
learner/feature_types   [7]
MODEL/cats              {"enc": [1]} | null
TREE/tree_param         {"size_leaf_vector": "2000000000"} | null
TREE/tree_param/size_leaf_vector  "4" | 4
TREE/parents            []
TREE/id                 -1 | "x"
TREE/sum_hessian/0      3.4028234663852886e38
"""
NEEDED = """
PARAMS PARAMS/num_class PARAMS/num_target PARAMS/num_feature PARAMS/base_score learner/objective MODEL
MODEL/tree_info MODEL/iteration_indptr MODEL/gbtree_model_param MODEL/trees version learner/feature_names
"""
NOT_NEEDED = """
PARAMS/boost_from_average learner/attributes learner/feature_types MODEL/cats TREE/tree_param TREE/parents
TREE/id TREE/split_type TREE/categories TREE/categories_nodes TREE/categories_segments TREE/categories_sizes
"""
# Of node 0, a split, and of the first leaf.
BAD_SPLITS = """
left_children     -1 | 2147483647 | 4294967297
right_children    -7 | 1000
split_indices     9 | -1 | 4294967296
default_left      2 | -1
split_conditions  NaN | 1e39 | -1e39
"""
BAD_LEAVES = """
left_children     0 | -2
split_indices     4294967296
default_left      2
split_conditions  101 | NaN
"""
GOOD_LEAVES = """
split_indices     1000000 | -7
default_left      1 | -0 | true
"""
# Answers that differ, where no golden vectors say so.
OTHER_ANSWERS = """
DENSE/coefficients           [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
DENSE/coefficients/0         1.5 | 1
DENSE/support/deployments    []
DENSE/support/high/0         0.01
routing/moe                  "dense"
uncertainty/kinds            {}
"""
OTHER_LEAVES = "0.25 | -0 | 2 | 0.012345678901234567890123456789 | 1e-999 | 1e-46 | 1e-40"
OTHER_THRESHOLDS = "1e-999 | 123456789012345678 | 0.41284313797950744628906250000001 | -3.4028234663852886e38"
BAD_VECTORS_FILE = """
format                "h3-golden2"
feature_names         [] | ["kv_to_weights"]
feature_names/0       "queue_depth"
configs               []
configs/small-1b      []
truncated_sampling/0  7
vectors               []
vectors/3             {} | null
vectors/3/config      "gpt" | null
vectors/3/tensor_parallelism  0 | 1.0 | null
vectors/3/hardware    "abacus" | null | " H100" | "\\u001ch100"
vectors/3/requests    null | [[1, 2]] | [[1, 2, -3]] | [[1, 2, 2147483648]] | [[1, 2, 3.0]] | [{}]
vectors/3/features    [] | [0, 0, 0, 0, 0, 0, 0, 0, null]
vectors/3/margin      null
vectors/3/us          "1" | 1e999 | null
vectors/3/low_us      "1"
vectors/3/kind        null
"""
VECTOR_KEYS = (
    *(
        "config",
        "tensor_parallelism",
        "hardware",
        "requests",
        "features",
        "margin",
        "us",
        "low_us",
        "high_us",
    ),
    "kind",
)
# Of the first and the last vector, which are evaluated whenever a bundle is read.
WRONG_ANSWERS = """
us                  -1 | 0 | 1e9
margin              0.7
kind                "new moon"
low_us              1 | 1e9
tensor_parallelism  3
hardware            "B200"
requests            [[9000, 1, 512]]
features/5          0.123
"""
# Of hardware.
BAD_NAMES = ("h100", "NVIDIA H200", "", " Own", "Own ", "Größe", "x" * 65, "a\tb", "İ")

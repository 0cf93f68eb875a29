"""What a manifest holds, as models; manifest.schema.json (manifest_schema.py) is the same as a JSON Schema.

    manifest = json_file.checked(content, Manifest, "manifest.json")
    manifest.models["all"].coefficients                            # in the order of manifest.terms

Bounds keep what is computed with the numbers finite; Go has the same ones. The files of a manifest of any
version are found through Envelope alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from h3.bundle.json_file import MAX_BYTES, Array, Given, Part, shown
from h3.bundle.uncertainty_model import Uncertainty
from h3.steps import catalog

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
# ASCII has one lower case in any language.
HardwareName = Annotated[str, Field(pattern="^[!-~]([ -~]{0,62}[!-~])?$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.001, le=1)]
WidthBytes = Annotated[float, Field(ge=0.125, le=16)]
LatencyUs = Annotated[float, Field(ge=0, le=1e6)]
ConstantUs = Annotated[float, Field(ge=0, le=1e9)]
PerSecond = Annotated[float, Field(ge=1e6, le=1e18)]
Factor = Annotated[float, Field(ge=0.001, le=1000)]
Bend = Annotated[float, Field(ge=0, le=1000)]  # of factors, those that may be nothing
ProfileName = Annotated[str, Field(min_length=1, max_length=64)]
Flops = Annotated[float, Field(ge=1e9, le=1e20)]
Size = Annotated[float, Field(ge=0, le=2**31 - 1)]
Float32 = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
Range = Annotated[tuple[Float32, ...], Array, Field(max_length=32)]
ByteCount = Annotated[int, Field(ge=0, le=10**9)]


class AnyFile(Part):
    """Digest and size of a file beside the manifest."""

    model_config = ConfigDict(extra="ignore")

    sha256: Digest
    bytes: int = Field(ge=0)


class Envelope(Part):
    """What any version of the manifest has, so that its files are found and checked."""

    model_config = ConfigDict(extra="ignore")

    format: Literal["h3-bundle"]
    format_version: int
    files: dict[str, AnyFile] = Field(min_length=1)


class Target(Part):
    """What is predicted."""

    name: Literal["period_us"]
    unit: Literal["us"]
    meaning: str


class Feature(Part):
    """One column of the trees' features, in their order."""

    index: int = Field(ge=0, le=31)
    name: Name
    dtype: Literal["float32"]
    unit: str
    group: str
    formula: str


class Constants(Part):
    """The constants of physics.py, by their names there."""

    activation_bytes: WidthBytes
    kv_bytes: WidthBytes
    attention_tile_queries: int = Field(ge=1, le=65536)
    gemm_efficiency: Share
    attention_efficiency: Share
    one_shot_latency_us: LatencyUs
    one_shot_efficiency: Share
    two_shot_latency_us: LatencyUs
    two_shot_rank_us: LatencyUs
    two_shot_efficiency: Share
    two_shot_few_ranks: int = Field(ge=1, le=65536)
    sampler_latency_us: LatencyUs
    sampler_us_per_million_logits: LatencyUs
    sampler_bandwidth_bytes_s: PerSecond
    least_nvlink_bytes_s: PerSecond
    two_shot_bytes: Annotated[tuple[ByteCount, ...], Array, Field(min_length=2, max_length=2)]


class Kernels(Part):
    """Factors of the terms and constants for an accelerator, 1 for an H100 (bends: 0); whose kernels and
    whose all-reduce they are, and whether they were measured on the accelerator itself.
    """

    measured: bool
    profile: ProfileName
    link: ProfileName
    weights: Factor
    fp8_weights: Factor
    experts: Factor
    kv: Factor
    attention_waves: Factor
    layers: Factor
    fp8_layers: Factor
    moe_layers: Factor
    gemm_efficiency: Factor
    fp8_gemm_efficiency: Factor
    gemm_bend: Bend
    fp8_gemm_bend: Bend
    attention_efficiency: Factor
    one_shot_latency: Bend
    one_shot_efficiency: Factor
    two_shot_latency: Bend
    two_shot_rank: Bend
    two_shot_efficiency: Factor


class Hardware(Part):
    """One accelerator; dense figures, SI units."""

    peak_bf16_flops: Flops
    peak_fp8_flops: Flops
    memory_bandwidth_bytes_s: PerSecond
    nvlink_bandwidth_bytes_s: PerSecond
    memory_bytes: Annotated[float, Field(ge=1e6, le=1e18)]
    streaming_multiprocessors: int = Field(ge=1, le=10**6)
    kernels: Kernels


class Routing(Part):
    """Which model serves dense and which MoE architectures."""

    rule: Literal["moe iff num_experts >= 2"]
    dense: str
    moe: str


class KnownDeployment(Part):
    """A deployment as the step table has it."""

    hardware: str = Field(max_length=64)
    tensor_parallelism: Size
    num_layers: Size
    hidden_size: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: Size
    dense_ffn_size: Size
    num_moe_layers: Size
    num_experts: Size
    experts_per_token: Size
    expert_ffn_size: Size
    shared_ffn_size: Size
    bytes_per_parameter: Size
    attention_bytes_per_parameter: Size
    head_bytes_per_parameter: Size
    kv_bytes_per_value: Size
    ffn_matrices: Size
    window_tokens: Size
    num_window_layers: Size
    kv_lora_rank: Size
    q_lora_rank: Size
    qk_rope_head_dim: Size
    v_head_dim: Size


KnownDeployments = Annotated[tuple[KnownDeployment, ...], Array, Field(max_length=4096)]


Tokens = Annotated[tuple[Size, Size], Array]


class TrainedOn(Part):
    """What training held: deployments, and the ranges of a step's decoding requests, their mean context and
    its new prompt tokens.
    """

    deployments: KnownDeployments
    decode_requests: Tokens
    context_tokens: Tokens
    prefill_tokens: Tokens

    @field_validator("decode_requests", "context_tokens", "prefill_tokens")
    @classmethod
    def _from_low_to_high(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"{value}; expected the lower bound first")
        return value


class Support(Part):
    """Range of each feature in training, and the deployments that the trees serve (absent: any)."""

    low: Range
    high: Range
    deployments: Annotated[KnownDeployments | None, Given] = None


class Model(Part):
    """One fit: its booster's file and number of trees, coefficients in the order of `terms`, support."""

    booster: Literal["booster.json", "booster_moe.json"]
    trees: int = Field(ge=0, le=10_000)
    coefficients: Annotated[tuple[ConstantUs, ...], Array, Field(min_length=1, max_length=32)]
    support: Support


class OutsideSupport(Part):
    """What happens outside the training ranges."""

    rule: Literal["linear_trust"]
    meaning: str


class RequestOverheads(Part):
    """What a request waits beside its steps: arrival to queue, us, and steps that are already scheduled when
    it arrives, in their periods; last token to response, us; every token, us.
    """

    queueing_us: ConstantUs
    pipeline_steps: Annotated[float, Field(ge=0, le=1000), Given] = 0.0
    post_decode_us: ConstantUs
    output_token_us: ConstantUs


class File(AnyFile):
    """As AnyFile, in bounds that this version's files have."""

    model_config = ConfigDict(extra="forbid")

    bytes: int = Field(ge=1, le=MAX_BYTES)


class Files(Part):
    """The files beside the manifest."""

    booster: File = Field(alias="booster.json")
    booster_moe: Annotated[File | None, Given] = Field(None, alias="booster_moe.json")
    golden: File = Field(alias="golden.json")


class Provenance(Part):
    """What every provenance holds; it may hold more."""

    model_config = ConfigDict(extra="allow")

    data_digest: str
    commit: str
    folds: Annotated[tuple[dict[str, Any], ...], Array]


class Manifest(Part):
    """All of a bundle but its trees and golden vectors."""

    model_config = ConfigDict(title="Manifest of an h3 bundle, format version 2")

    format: Literal["h3-bundle"]
    format_version: Literal[2]
    target: Target
    formula: str
    features: Annotated[tuple[Feature, ...], Array, Field(min_length=1, max_length=32)]
    terms: Annotated[tuple[Name, ...], Array, Field(min_length=1, max_length=32)]
    constants: Constants
    hardware: dict[HardwareName, Hardware] = Field(min_length=1, max_length=4096)
    hardware_aliases: dict[str, str] = Field(min_length=1, max_length=4096)
    routing: Routing
    models: dict[str, Model] = Field(min_length=1)
    outside_support: OutsideSupport
    trained_on: TrainedOn
    uncertainty: Uncertainty
    overheads: RequestOverheads
    xgboost_version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+")
    files: Files
    provenance: dict[str, Any]

    @field_validator("provenance")
    @classmethod
    def _holds_what_every_provenance_holds(cls, value: dict[str, Any]) -> dict[str, Any]:
        Provenance.model_validate(value)
        return value

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Manifest:
        for route, name in (("dense", self.routing.dense), ("moe", self.routing.moe)):
            if name not in self.models:
                raise ValueError(f"routing.{route}={name!r}; expected one of {', '.join(self.models)}")
        for name, model in self.models.items():
            count = len(model.coefficients)
            if model.booster == "booster_moe.json" and self.files.booster_moe is None:
                raise ValueError(f"models.{name}.booster={model.booster!r} is not among files")
            if count != len(self.terms):
                raise ValueError(f"models.{name} has {count} coefficients; expected {len(self.terms)}")
        names = self.hardware_names()
        for alias, name in self.hardware_aliases.items():
            if names.get(alias) != name:
                raise ValueError(
                    f"hardware_aliases.{shown(alias)}={name[:80]!r}; expected a known alias of hardware that"
                    " is there, or its name in lower case"
                )
        return self

    def hardware_names(self) -> dict[str, str]:
        """Every name, in lower case, that the hardware answers to; raises ValueError if one stands for two.

        Aliases are the same in every bundle, so that none can answer for another accelerator than the one
        that was asked for.
        """
        known = catalog.HARDWARE_ALIASES
        names = {alias: name for alias, name in known.items() if name in self.hardware}
        for name in self.hardware:
            other = names.setdefault(name.lower(), known.get(name.lower(), name))
            if other != name:
                raise ValueError(
                    f"hardware {name!r} and {other!r}; expected names that differ in more than case"
                )
        return names

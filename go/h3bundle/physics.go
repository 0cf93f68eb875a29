package h3bundle

import "math"

// Terms of the base in the order of h3's physics.TERMS; features in the order of featureIndex.
const (
	termWeights = iota
	termKV
	termComputeExcess
	termPrefillAttention
	termAllReduce
	termAttentionWaves
	termLayers
	termMoELayers
	termRequests
	termStep
	termTwoShots
	termSampler
	numTerms
)

// TermNames names the terms in order: times in us, and counts.
var TermNames = [numTerms]string{
	"weights_us", "kv_us", "compute_excess_us", "prefill_attention_us", "all_reduce_us",
	"attention_waves", "layers", "moe_layers", "requests", "step",
	"two_shots", "sampler_us",
}

const (
	featKV = iota
	featCompute
	featComputeExcess
	featPrefillAttention
	featAllReduce
	featPrefillShare
	featPrefillStepShare
	featExpertCoverage
	featTokensPerExpert
	numFeatures
)

var featureIndex = map[string]int{
	"kv_to_weights": featKV, "compute_to_weights": featCompute, "compute_excess_to_weights": featComputeExcess,
	"prefill_attention_to_weights": featPrefillAttention, "all_reduce_to_weights": featAllReduce, "prefill_share": featPrefillShare,
	"prefill_step_share": featPrefillStepShare, "expert_coverage": featExpertCoverage, "tokens_per_expert": featTokensPerExpert,
}

// Composition is what features and base count of a batch; the zero value is the empty batch. Sums are exact below 2^53.
type Composition struct {
	PrefillReqs, PrefillTokens            int64
	PrefillKVTokens, prefillAttendedTwice float64
	decodes
}

// decodes counts the decoding requests of a batch; small enough to stay in registers while a batch is counted.
type decodes struct{ DecodeReqs, DecodeTokens, DecodeKVTokens int64 }

// isDecode says whether a request is an ordinary decoding one, with numbers in range.
func isDecode(computed, scheduled, prompt int64) bool {
	return computed >= prompt && uint64(computed) <= maxTokens && uint64(scheduled-1) < maxTokens
}

// with counts one more request for which isDecode holds.
func (d decodes) with(computed, scheduled int64) decodes {
	return decodes{d.DecodeReqs + 1, d.DecodeTokens + scheduled, d.DecodeKVTokens + computed + scheduled}
}

// Add counts one request: tokens computed before the step, tokens of the step, length of the prompt. It prefills iff
// computed < prompt. A request without new tokens is not in the step; numbers outside 0 to 2^31-1 count as the nearest.
func (c *Composition) Add(computed, scheduled, prompt int64) {
	if scheduled <= 0 {
		return
	}
	computed, scheduled = min(max(computed, 0), maxTokens), min(scheduled, maxTokens)
	if computed >= prompt {
		c.decodes = c.with(computed, scheduled)
		return
	}
	c.PrefillReqs++
	c.PrefillTokens += scheduled
	c.PrefillKVTokens += float64(computed)
	c.prefillAttendedTwice += float64(2*scheduled)*float64(computed) + float64(scheduled)*float64(scheduled+1)
}

// add counts further decoding requests.
func (c *Composition) add(d decodes) {
	c.DecodeReqs += d.DecodeReqs
	c.DecodeTokens += d.DecodeTokens
	c.DecodeKVTokens += d.DecodeKVTokens
}

// PrefillAttendedTokens is the number of query-key pairs of prefill: t*s + t*(t+1)/2 for t new tokens after s.
func (c *Composition) PrefillAttendedTokens() float64 { return c.prefillAttendedTwice / 2 }

// physics holds what h3's physics.py computes from a deployment alone. Orders of operations follow physics.py, and products
// are rounded before they are added (float64(a*b)+c), so that no processor fuses them and the last bit is the same.
type physics struct {
	bytesPerParameter, ranks                   float64
	attention, dense, moeLayers, experts, topK float64 // weights of all layers' attention and dense FFNs; expert counts
	threeHidden, expertFFN, sharedFFN, head    float64
	bandwidth, peak, attentionPeak             float64 // bytes/us, FLOP/us
	active, weightsDenseUS                     float64
	kvBytesPerToken, tileQueries, flopsPerPair float64
	efficiency, allReduces                     float64
	hidden, activationBytes, twoShotBytes      float64
	waveLayers, kvHeads, sms, layers           float64
	oneShot, twoShot                           allReduce
	readFactor, kvFactor, waveFactor, bend     float64 // of the accelerator's kernels; layers and moeFloors hold theirs
	moeFloors                                  float64
	slower                                     float64 // than the GPU of the sampler's constants, by memory bandwidth
	vocab, sorts, sortUS, sortLogitUS          float64 // sorts: 1 where sampling is truncated, else 0
}

// allReduce is one algorithm's time: latency, messages' worth of bytes on the wire, bytes/us.
type allReduce struct{ latencyUS, messages, bandwidth float64 }

func newPhysics(d Deployment, h Hardware, c *constants) physics {
	a, ranks := d.Architecture, float64(d.TensorParallelism)
	layers, moe, hidden := float64(a.NumLayers), float64(a.NumMoELayers), float64(a.HiddenSize)
	heads, kvHeads, headDim := float64(a.NumHeads), float64(a.NumKVHeads), float64(a.HeadDim)
	k := &h.Kernels
	p := physics{
		bytesPerParameter: a.BytesPerParameter, ranks: ranks, moeLayers: moe, experts: float64(a.NumExperts), topK: float64(a.ExpertsPerToken),
		attention: layers * (hidden * headDim * (float64(2*heads) + float64(2*kvHeads))), dense: (layers - moe) * float64(a.DenseFFNSize),
		threeHidden: 3 * hidden, expertFFN: float64(a.ExpertFFNSize), sharedFFN: float64(a.SharedFFNSize), head: hidden * float64(a.VocabSize),
		bandwidth: h.MemoryBandwidthBytesS / 1e6, peak: h.PeakBF16FLOPs / 1e6, attentionPeak: h.PeakBF16FLOPs / 1e6 * float64(c.AttentionEfficiency*k.AttentionEfficiency),
		tileQueries: c.TileQueries, efficiency: c.GEMMEfficiency * k.GEMMEfficiency, hidden: hidden,
		activationBytes: c.ActivationBytes,
		kvHeads:         math.Max(1, kvHeads/ranks), sms: h.StreamingMultiprocessors, layers: layers * k.Layers,
		readFactor: k.Weights, kvFactor: k.KV, waveFactor: k.AttentionWaves, bend: k.GEMMBend, moeFloors: moe * k.MoELayers,
	}
	if a.BytesPerParameter <= 1 {
		p.peak, p.efficiency = h.PeakFP8FLOPs/1e6, c.GEMMEfficiency*k.FP8GEMMEfficiency
		p.readFactor, p.bend, p.layers = k.FP8Weights, k.FP8GEMMBend, layers*k.FP8Layers
	}
	if p.experts > 0 {
		p.readFactor = k.Experts
	}
	if ranks > 1 {
		p.allReduces = 2 * layers
	}
	link := h.NVLinkBandwidthBytesS / 1e6
	p.oneShot = allReduce{c.OneShotLatencyUS * k.OneShotLatency, ranks - 1, link * float64(c.OneShotEfficiency*k.OneShotEfficiency)}
	p.twoShot = allReduce{
		float64(c.TwoShotLatencyUS*k.TwoShotLatency) + float64(c.TwoShotRankUS*k.TwoShotRank*ranks),
		2 * (ranks - 1) / ranks, link * float64(c.TwoShotEfficiency*k.TwoShotEfficiency),
	}
	p.twoShotBytes = c.TwoShotBytes[1]
	if ranks <= c.TwoShotFewRanks {
		p.twoShotBytes = c.TwoShotBytes[0]
	}
	if h.NVLinkBandwidthBytesS < c.LeastNVLinkBytesS { // NCCL's ring, all ranks' bytes through one host bridge
		p.twoShotBytes, p.twoShot.messages = 0, p.twoShot.messages*ranks
	}
	if ranks <= 2 {
		p.twoShotBytes = math.Inf(1)
	}
	if a.NumKVHeads < a.NumHeads {
		p.waveLayers = layers
	}
	if d.TruncatedSampling {
		p.sorts = 1
	}
	p.vocab, p.sortUS, p.sortLogitUS = float64(a.VocabSize), c.SamplerLatencyUS, c.SamplerUSPerMillionLogits/1e6
	p.slower = c.SamplerBandwidthBytesS / h.MemoryBandwidthBytesS
	p.kvBytesPerToken = 2 * c.KVBytes * layers * p.kvHeads * headDim
	p.flopsPerPair = 4 * layers * (heads / ranks) * headDim
	p.active = p.layerWeights(p.topK)
	p.weightsDenseUS = p.weightUS(0)
	return p
}

func (p *physics) layerWeights(experts float64) float64 {
	sparse := p.moeLayers * (float64(experts*p.expertFFN) + p.sharedFFN)
	return p.attention + float64(p.threeHidden*(p.dense+float64(sparse)))
}

// coverage is the expected share of a layer's routed experts that so many tokens visit, 1 for dense models.
func (p *physics) coverage(tokens float64) float64 {
	if p.experts == 0 {
		return 1
	}
	return 1 - math.Pow(1-p.topK/p.experts, tokens)
}

func (p *physics) weightUS(coverage float64) float64 {
	return p.bytesPerParameter * (p.layerWeights(p.experts*coverage) + p.head) / p.ranks / p.bandwidth * p.readFactor
}

// evaluate fills in the base's terms and all features of a step, before rounding to float32.
func (p *physics) evaluate(c *Composition, terms *[numTerms]float64, features *[numFeatures]float64) {
	prefill, decode := float64(c.PrefillTokens), float64(c.DecodeTokens)
	requests, attended, tokens := float64(c.PrefillReqs+c.DecodeReqs), c.PrefillAttendedTokens(), prefill+decode
	coverage, weights := 1.0, p.weightsDenseUS
	if p.experts > 0 {
		coverage = p.coverage(tokens)
		weights = p.weightUS(coverage)
		features[featTokensPerExpert] = tokens * (p.topK / p.experts)
	}
	compute := 2 * (float64(p.active*tokens) + float64(p.head*requests)) / p.ranks / p.peak
	kv := p.kvBytesPerToken * (float64(c.DecodeKVTokens) + max(attended/p.tileQueries, c.PrefillKVTokens+prefill)) / p.bandwidth * p.kvFactor
	gemm := compute / p.efficiency
	beyond := gemm - weights
	excess := 0.5 * (beyond + math.Sqrt(float64(beyond*beyond)+float64(p.bend*float64(gemm*weights))))
	attention := p.flopsPerPair * attended / p.attentionPeak
	message, shots, twoShots := tokens*p.hidden*p.activationBytes, &p.oneShot, 0.0
	if message >= p.twoShotBytes {
		shots, twoShots = &p.twoShot, p.allReduces
	}
	sampler := 0.0
	if logits := requests * p.vocab; logits > 0 {
		sampler = p.sorts * (p.sortUS + float64(p.sortLogitUS*logits*p.slower))
	}
	reduce := p.allReduces * (shots.latencyUS + shots.messages*message/shots.bandwidth)
	*terms = [numTerms]float64{
		weights, kv, excess, attention, reduce, p.waveLayers * (float64(c.DecodeReqs) * p.kvHeads) / p.sms * p.waveFactor,
		p.layers, p.moeFloors, requests, 1, twoShots, sampler,
	}
	features[featKV], features[featCompute], features[featComputeExcess] = kv/weights, compute/weights, excess/weights
	features[featPrefillAttention], features[featAllReduce] = attention/weights, reduce/weights
	features[featPrefillShare], features[featExpertCoverage] = prefill/max(tokens, 1e-12), coverage
	features[featPrefillStepShare] = 0
	if c.PrefillReqs > 0 {
		features[featPrefillStepShare] = 1
	}
}

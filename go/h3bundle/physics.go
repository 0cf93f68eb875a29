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
// What layers with a sliding window attend to is counted where Window is set before the first Add (Kernel.Composition).
type Composition struct {
	PrefillReqs, PrefillTokens                     int64
	PrefillKVTokens, prefillAttendedTwice          float64
	DecodeReqs, DecodeTokens, DecodeKVTokens       int64
	Window                                         int64
	decodeWindowTokens, prefillWindowAttendedTwice float64
}

// AddDecode does what Add does for an ordinary decoding request and says so; it leaves all others to Add. It is small enough
// to become part of a loop over a batch, which Add is not. One comparison: computed lies between prompt, 0 and 2^31-1,
// scheduled between 1 and 2^31-1.
func (c *Composition) AddDecode(computed, scheduled, prompt int64) bool {
	if uint64(computed|scheduled|(scheduled-1)|(computed-prompt)) > maxTokens {
		return false
	}
	c.DecodeReqs++
	c.DecodeTokens += scheduled
	c.DecodeKVTokens += computed + scheduled
	if c.Window > 0 {
		c.decodeWindowTokens += float64(min(computed+scheduled, c.Window))
	}
	return true
}

// Add counts one request: tokens computed before the step, tokens of the step, length of the prompt. It prefills iff
// computed < prompt. A request without new tokens is not in the step; numbers outside 0 to 2^31-1 count as the nearest.
func (c *Composition) Add(computed, scheduled, prompt int64) {
	if scheduled <= 0 {
		return
	}
	computed, scheduled, prompt = min(max(computed, 0), maxTokens), min(scheduled, maxTokens), max(prompt, 0)
	if c.AddDecode(computed, scheduled, prompt) {
		return
	}
	if c.Window > 0 {
		growing := min(max(c.Window-computed, 0), scheduled)
		c.prefillWindowAttendedTwice += float64(2*growing)*float64(computed) + float64(growing)*float64(growing+1) +
			float64(2*(scheduled-growing))*float64(c.Window)
	}
	c.PrefillReqs++
	c.PrefillTokens += scheduled
	c.PrefillKVTokens += float64(computed)
	c.prefillAttendedTwice += float64(2*scheduled)*float64(computed) + float64(scheduled)*float64(scheduled+1)
}

// PrefillAttendedTokens is the number of query-key pairs of prefill: t*s + t*(t+1)/2 for t new tokens after s.
func (c *Composition) PrefillAttendedTokens() float64 { return c.prefillAttendedTwice / 2 }

// physics holds what h3's physics.py computes from a deployment alone. Orders of operations follow physics.py, and products
// are rounded before they are added (float64(a*b)+c), so that no processor fuses them and the last bit is the same.
type physics struct {
	ranks                                      float64
	attention, replicated, dense, head         float64 // weights: shared by ranks, on every rank, dense FFN widths, LM head
	moeLayers, experts, topK                   float64
	matricesHidden, expertFFN, sharedFFN       float64
	ffnBytes, attentionBytes, headBytes        float64 // of a weight
	bandwidth                                  float64 // bytes/us
	ffnPeak, attentionGEMMPeak, headPeak       float64 // FLOP/us
	attentionPeak                              float64
	window, windowShare                        float64
	active, weightsDenseUS                     float64
	logMissed                                  float64 // log of the share of experts that one token does not visit
	kvBytesPerToken, tileQueries, flopsPerPair float64
	efficiency, allReduces                     float64
	hidden, activationBytes, twoShotBytes      float64
	waveLayers, kvHeads, sms, layers           float64
	oneShot, twoShot                           allReduce
	kernels                                    factors // of the accelerator
	slower                                     float64 // than the GPU of the sampler's constants, by memory bandwidth
	vocab, sorts, sortUS, sortLogitUS          float64 // sorts: 1 where sampling is truncated, else 0

	slowest []float64 // experts that the slowest rank reads, by how many are visited; nil: experts are sliced over the ranks
}

// allReduce is one algorithm's time: latency, messages' worth of bytes on the wire, bytes/us.
type allReduce struct{ latencyUS, messages, bandwidth float64 }

func newPhysics(d Deployment, h Hardware, c *constants) physics {
	a, ranks := d.Architecture, float64(d.TensorParallelism)
	a = a.completed()
	layers, moe, hidden := float64(a.NumLayers), float64(a.NumMoELayers), float64(a.HiddenSize)
	heads, kvHeads, headDim := float64(a.NumHeads), float64(a.NumKVHeads), float64(a.HeadDim)
	perLayer, onEveryRank := attentionWeights(a)
	k := &h.Kernels
	p := physics{
		kernels: k.of(a),
		ranks:   ranks, moeLayers: moe, experts: float64(a.NumExperts), topK: float64(a.ExpertsPerToken),
		attention: layers * perLayer, replicated: float64(layers*hidden) * onEveryRank, dense: (layers - moe) * float64(a.DenseFFNSize),
		matricesHidden: float64(a.FFNMatrices) * hidden, expertFFN: float64(a.ExpertFFNSize), sharedFFN: float64(a.SharedFFNSize),
		head: hidden * float64(a.VocabSize), ffnBytes: a.BytesPerParameter, attentionBytes: a.AttentionBytesPerParameter,
		headBytes: a.HeadBytesPerParameter, bandwidth: h.MemoryBandwidthBytesS / 1e6,
		ffnPeak: h.peak(a.BytesPerParameter), attentionGEMMPeak: h.peak(a.AttentionBytesPerParameter), headPeak: h.peak(a.HeadBytesPerParameter),
		attentionPeak: h.PeakBF16FLOPs / 1e6 * float64(c.AttentionEfficiency*k.AttentionEfficiency),
		window:        float64(a.WindowTokens), windowShare: float64(a.NumWindowLayers) / layers,
		tileQueries: c.TileQueries, efficiency: c.GEMMEfficiency * k.of(a).efficiency, hidden: hidden,
		activationBytes: c.ActivationBytes,
		kvHeads:         math.Max(1, kvHeads/ranks), sms: h.StreamingMultiprocessors, layers: layers,
	}
	values, valueDim := 2*p.kvHeads*headDim, headDim
	if a.KVLoraRank > 0 {
		p.kvHeads, values, valueDim = 1, float64(a.KVLoraRank)+float64(a.QKRopeHeadDim), float64(a.VHeadDim)
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
	if d.ExpertParallel && ranks > 1 && a.NumExperts <= mostTabledExperts {
		p.slowest = slowestRanks(int(a.NumExperts), d.TensorParallelism)
	}
	p.vocab, p.sortUS, p.sortLogitUS = float64(a.VocabSize), c.SamplerLatencyUS, c.SamplerUSPerMillionLogits/1e6
	p.slower = c.SamplerBandwidthBytesS / h.MemoryBandwidthBytesS
	p.kvBytesPerToken = a.KVBytesPerValue * layers * values
	p.flopsPerPair = 2 * layers * (heads / ranks) * (headDim + valueDim)
	p.active = p.ffnWeights(p.topK)
	p.logMissed = max(math.Log1p(-p.topK/max(p.experts, 1)), -math.MaxFloat64) // where a token visits all, 0 tokens visit none
	p.weightsDenseUS = p.weightUS(0)
	return p
}

// attentionWeights are one layer's that ranks share, and, over the hidden size, those that every rank holds whole (MLA).
func attentionWeights(a Architecture) (shared, replicated float64) {
	hidden, heads, headDim := float64(a.HiddenSize), float64(a.NumHeads), float64(a.HeadDim)
	if a.KVLoraRank == 0 {
		return hidden * headDim * (float64(2*heads) + float64(2*float64(a.NumKVHeads))), 0
	}
	query, latent, rope, value := float64(a.QLoraRank), float64(a.KVLoraRank), float64(a.QKRopeHeadDim), float64(a.VHeadDim)
	from := query
	if query == 0 {
		from = hidden
	}
	up := float64(from*heads*headDim) + float64(latent*heads*(headDim-rope+value))
	return up + float64(heads*value*hidden), query + latent + rope
}

const leastFP8Bytes = 0.9 // a weight of fewer bytes has 4 bits, which kernels widen before they multiply

// peak is the FLOP/us of weights of so many bytes.
func (h Hardware) peak(stored float64) float64 {
	if stored <= 1 && stored >= leastFP8Bytes {
		return h.PeakFP8FLOPs / 1e6
	}
	return h.PeakBF16FLOPs / 1e6
}

func (p *physics) ffnWeights(experts float64) float64 {
	sparse := p.moeLayers * (float64(experts*p.expertFFN) + p.sharedFFN)
	return p.matricesHidden * (p.dense + float64(sparse))
}

// coverage is the expected share of a layer's routed experts that so many tokens visit, 1 for dense models.
func (p *physics) coverage(tokens float64) float64 {
	if p.experts == 0 {
		return 1
	}
	return -math.Expm1(tokens * p.logMissed)
}

func (p *physics) weightUS(coverage float64) float64 {
	shared := float64(p.attentionBytes*p.attention) + float64(p.ffnBytes*p.ffnWeights(p.experts*coverage)) + float64(p.headBytes*p.head)
	return (shared/p.ranks + float64(p.attentionBytes*p.replicated)) / p.bandwidth * p.kernels.read
}

// gemmUS is the time of the weight matrices' FLOPs at peak.
func (p *physics) gemmUS(tokens, requests float64) float64 {
	attention := 2 * (p.attention/p.ranks + p.replicated) * tokens
	return attention/p.attentionGEMMPeak + 2*p.active*tokens/p.ranks/p.ffnPeak + 2*p.head*requests/p.ranks/p.headPeak
}

// overLayers is the mean over the layers of what those with full attention and those with a window count.
func (p *physics) overLayers(full, windowed float64) float64 {
	if p.windowShare > 0 {
		return float64((1-p.windowShare)*full) + float64(p.windowShare*windowed)
	}
	return full
}

// attends counts the KV tokens that attention reads and the query-key pairs of prefill, each a mean over the layers.
func (p *physics) attends(c *Composition) (kvTokens, pairs float64) {
	attended, before, new := c.PrefillAttendedTokens(), c.PrefillKVTokens, float64(c.PrefillTokens)
	full := float64(c.DecodeKVTokens) + max(attended/p.tileQueries, before+new)
	if p.windowShare == 0 {
		return full, attended
	}
	decode := min(float64(c.DecodeKVTokens), float64(c.DecodeReqs)*p.window)
	windowed := min(attended, max(new, float64(c.PrefillReqs))*p.window)
	if c.Window > 0 {
		decode, windowed = c.decodeWindowTokens, c.prefillWindowAttendedTwice/2
	}
	reach := float64(c.PrefillReqs) * p.window
	read := decode + max(windowed/p.tileQueries, min(before, reach)+new)
	return p.overLayers(full, read), p.overLayers(attended, windowed)
}

// step is what physics counts of one batch: the base's terms, and what features need besides.
type step struct {
	terms                      [numTerms]float64
	compute, coverage          float64
	tokens, prefill, toPrefill float64 // toPrefill: 1 where a request prefills
}

// count fills in the base's terms.
func (p *physics) count(c *Composition, s *step) {
	s.prefill, s.tokens = float64(c.PrefillTokens), float64(c.PrefillTokens)+float64(c.DecodeTokens)
	s.toPrefill = float64(min(c.PrefillReqs, 1))
	requests := float64(c.PrefillReqs + c.DecodeReqs)
	kvTokens, pairs := p.attends(c)
	weights := p.weightsDenseUS
	s.coverage = 1
	if p.experts > 0 {
		s.coverage = p.coverage(s.tokens)
		weights = p.weightUS(s.coverage * p.unevenness(s.coverage))
	}
	s.compute = p.gemmUS(s.tokens, requests)
	gemm := s.compute / p.efficiency
	beyond := gemm - weights
	message, shots, twoShots := s.tokens*p.hidden*p.activationBytes, &p.oneShot, 0.0
	if message >= p.twoShotBytes {
		shots, twoShots = &p.twoShot, p.allReduces
	}
	sampler := 0.0
	if logits := requests * p.vocab; logits > 0 {
		sampler = p.sorts * (p.sortUS + float64(p.sortLogitUS*logits*p.slower))
	}
	t := &s.terms
	t[termWeights] = weights
	t[termKV] = p.kvBytesPerToken * kvTokens / p.bandwidth * p.kernels.kv
	t[termComputeExcess] = 0.5 * (beyond + math.Sqrt(float64(beyond*beyond)+float64(p.kernels.bend*float64(gemm*weights))))
	t[termPrefillAttention] = p.flopsPerPair * pairs / p.attentionPeak
	t[termAllReduce] = p.allReduces * (shots.latencyUS + shots.messages*message/shots.bandwidth)
	t[termAttentionWaves] = p.waveLayers * (float64(c.DecodeReqs) * p.kvHeads) / p.sms * p.kernels.waves
	t[termLayers], t[termMoELayers] = p.layers*p.kernels.layers, p.moeLayers*p.kernels.moeLayers
	t[termRequests], t[termStep], t[termTwoShots], t[termSampler] = requests, 1, twoShots, sampler
}

// features fills in all features of a step that was counted, before rounding to float32.
func (p *physics) features(s *step, x *[numFeatures]float64) {
	t, weights := &s.terms, s.terms[termWeights]
	x[featKV], x[featCompute], x[featComputeExcess] = t[termKV]/weights, s.compute/weights, t[termComputeExcess]/weights
	x[featPrefillAttention], x[featAllReduce] = t[termPrefillAttention]/weights, t[termAllReduce]/weights
	x[featPrefillShare], x[featPrefillStepShare] = s.prefill/max(s.tokens, 1e-12), s.toPrefill
	x[featExpertCoverage], x[featTokensPerExpert] = s.coverage, 0
	if p.experts > 0 {
		x[featTokensPerExpert] = s.tokens * (p.topK / p.experts)
	}
}

package h3bundle

import (
	"fmt"
	"math"
)

// embeddingBytes of a value of the input embedding: no quantisation that h3 reads touches it.
const embeddingBytes = 2.0

// mostBytes keeps a count of bytes inside int64.
const mostBytes = 1 << 62

// tiedFamilies share input embedding and LM head where their config does not say.
var tiedFamilies = []string{
	"gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "falcon", "refinedweb", "refinedwebmodel",
	"gpt2", "gpt_bigcode", "opt", "bloom", "mpt",
}

// TiesEmbeddings says whether a config.json's model keeps one matrix as input embedding and LM head. Where the config does not
// say, families that are known for it do, and all others do not: the larger count.
func TiesEmbeddings(config []byte) (bool, error) {
	var outer map[string]any
	if err := decode(config, false, &outer); err != nil {
		return false, fmt.Errorf("config.json: %w", err)
	}
	c, err := languagePart(outer)
	if err != nil {
		return false, fmt.Errorf("config.json: %w", err)
	}
	const key = "tie_word_embeddings"
	value := c.anywhere(key)
	if value == nil {
		return oneOf(c.modelType(), tiedFamilies...), nil
	}
	tied, ok := value.(bool)
	if !ok {
		return false, fmt.Errorf("config.json: %s=%v; expected true or false", key, value)
	}
	return tied, nil
}

// WeightBytes are those of the parameters that a rank holds, the fullest one's where experts lie whole on ranks. Embedding and
// LM head are divided by vocabulary, KV heads beyond their number are copies, and so is MLA's way down to its latent vectors.
// Left out, as in the bytes that a step reads: norms, biases, routers, learned positions, vision towers.
func (k *Kernel) WeightBytes(tiedEmbeddings bool) int64 {
	p, d := &k.physics, &k.origin.deployment
	a := d.Architecture.completed()
	attention := p.attention/p.ranks + p.replicated
	if a.KVLoraRank == 0 {
		copies := p.kvHeads - float64(a.NumKVHeads)/p.ranks
		attention += 2 * p.layers * p.hidden * float64(a.HeadDim) * copies
	}
	experts := p.experts
	if d.ExpertParallel {
		experts = math.Ceil(p.experts/p.ranks) * p.ranks
	}
	vocabulary := p.headBytes
	if !tiedEmbeddings {
		vocabulary += embeddingBytes
	}
	return wholeBytes(p.attentionBytes*attention + p.ffnBytes*p.ffnWeights(experts)/p.ranks + vocabulary*p.head/p.ranks)
}

// KVBytes are what a request's KV cache takes on a rank when so many of its tokens are computed, in blocks of blockTokens. A
// layer with a window keeps the blocks that the window touches and no others, as engines do whose cache is managed by layer
// (vLLM's by default); one block more than fit the window, since it may begin anywhere in a block.
func (k *Kernel) KVBytes(tokens, blockTokens int64) int64 {
	a := k.origin.deployment.Architecture
	tokens, blockTokens = min(max(tokens, 0), maxTokens), min(max(blockTokens, 1), maxTokens)
	blocks := blocksOf(tokens, blockTokens)
	layers := float64(a.NumLayers-a.NumWindowLayers) * float64(blocks)
	if a.NumWindowLayers > 0 {
		layers += float64(a.NumWindowLayers) * float64(min(blocks, blocksOf(a.WindowTokens, blockTokens)+1))
	}
	return wholeBytes(k.physics.kvBytesPerToken / k.physics.layers * layers * float64(blockTokens))
}

func blocksOf(tokens, blockTokens int64) int64 { return (tokens + blockTokens - 1) / blockTokens }

func wholeBytes(bytes float64) int64 { return int64(math.Ceil(min(bytes, mostBytes))) }

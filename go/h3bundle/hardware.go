package h3bundle

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Hardware is one accelerator; peaks are dense figures, SI units. NVLinkBandwidthBytesS is the link between the GPUs of a
// server, one direction, PCIe where there is no NVLink.
type Hardware struct {
	PeakBF16FLOPs            float64 `json:"peak_bf16_flops" within:"1e9,1e20"`
	PeakFP8FLOPs             float64 `json:"peak_fp8_flops" within:"1e9,1e20"`
	MemoryBandwidthBytesS    float64 `json:"memory_bandwidth_bytes_s" within:"1e6,1e18"`
	NVLinkBandwidthBytesS    float64 `json:"nvlink_bandwidth_bytes_s" within:"1e6,1e18"`
	MemoryBytes              float64 `json:"memory_bytes" within:"1e6,1e18"`
	StreamingMultiprocessors float64 `json:"streaming_multiprocessors,whole" within:"1,1e6"`
	Kernels                  kernels `json:"kernels"`
}

// kernels are factors of the terms and constants, 1 for an H100 (bends: 0), from tables of single kernels.
type kernels struct {
	Measured            bool    `json:"measured"` // on the accelerator itself
	Profile             string  `json:"profile" items:"1,64"`
	Link                string  `json:"link" items:"1,64"`
	Weights             float64 `json:"weights" within:"0.001,1000"`
	FP8Weights          float64 `json:"fp8_weights" within:"0.001,1000"`
	Experts             float64 `json:"experts" within:"0.001,1000"`
	KV                  float64 `json:"kv" within:"0.001,1000"`
	AttentionWaves      float64 `json:"attention_waves" within:"0.001,1000"`
	Layers              float64 `json:"layers" within:"0.001,1000"`
	FP8Layers           float64 `json:"fp8_layers" within:"0.001,1000"`
	MoELayers           float64 `json:"moe_layers" within:"0.001,1000"`
	GEMMEfficiency      float64 `json:"gemm_efficiency" within:"0.001,1000"`
	FP8GEMMEfficiency   float64 `json:"fp8_gemm_efficiency" within:"0.001,1000"`
	GEMMBend            float64 `json:"gemm_bend" within:"0,1000"`
	FP8GEMMBend         float64 `json:"fp8_gemm_bend" within:"0,1000"`
	AttentionEfficiency float64 `json:"attention_efficiency" within:"0.001,1000"`
	OneShotLatency      float64 `json:"one_shot_latency" within:"0,1000"`
	OneShotEfficiency   float64 `json:"one_shot_efficiency" within:"0.001,1000"`
	TwoShotLatency      float64 `json:"two_shot_latency" within:"0,1000"`
	TwoShotRank         float64 `json:"two_shot_rank" within:"0,1000"`
	TwoShotEfficiency   float64 `json:"two_shot_efficiency" within:"0.001,1000"`
}

// factors are the kernels' for one architecture: of terms, of the efficiency of large GEMMs, and the roofline's bend.
type factors struct{ read, kv, waves, layers, moeLayers, efficiency, bend float64 }

func (k *kernels) of(a Architecture) factors {
	f := factors{k.Weights, k.KV, k.AttentionWaves, k.Layers, k.MoELayers, k.GEMMEfficiency, k.GEMMBend}
	if a.BytesPerParameter <= 1 && a.BytesPerParameter >= leastFP8Bytes {
		f.read, f.layers, f.efficiency, f.bend = k.FP8Weights, k.FP8Layers, k.FP8GEMMEfficiency, k.FP8GEMMBend
	}
	if a.NumExperts > 0 {
		f.read = k.Experts
	}
	return f
}

// leastMemoryBytes stands for the memory of a card that does not say it: no step is computed from it.
const leastMemoryBytes = 1e6

// check refuses figures out of the bounds that a manifest's have.
func (h Hardware) check(name string) error {
	if h.MemoryBytes == 0 {
		h.MemoryBytes = leastMemoryBytes
	}
	if err := withinBounds(&h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Card is an accelerator of one's own. Kernels names the accelerator of the bundle whose kernels' efficiencies it takes; "":
// the nearest of those that were measured.
type Card struct {
	Name                     string  `json:"name,optional"`
	PeakBF16FLOPs            float64 `json:"peak_bf16_flops,optional"`
	PeakFP8FLOPs             float64 `json:"peak_fp8_flops,optional"` // 0: as 16-bit
	MemoryBandwidthBytesS    float64 `json:"memory_bandwidth_bytes_s,optional"`
	LinkBytesS               float64 `json:"link_bytes_s,optional"` // one direction
	MemoryBytes              float64 `json:"memory_bytes,optional"`
	StreamingMultiprocessors float64 `json:"streaming_multiprocessors,optional"`
	Kernels                  string  `json:"kernels,optional"`
}

// ParseCard reads a Card from JSON, strictly as a bundle's files are read; what is absent is 0.
func ParseCard(data []byte) (Card, error) {
	var card Card
	err := bind(data, &card)
	return card, err
}

// WithCard returns the bundle with one more accelerator, known by the card's name; the bundle itself stays as it is. The
// efficiencies are chosen as h3's kernels.py chooses them.
func (b *Bundle) WithCard(card Card) (*Bundle, error) {
	alias := strings.ToLower(strings.TrimSpace(card.Name))
	if _, taken := b.manifest.hardwareName(alias); taken || alias == "" {
		return nil, fmt.Errorf("card: name %q is empty or taken by an accelerator of the bundle", card.Name)
	}
	h := Hardware{
		card.PeakBF16FLOPs, card.PeakFP8FLOPs, card.MemoryBandwidthBytesS, card.LinkBytesS, card.MemoryBytes,
		card.StreamingMultiprocessors, kernels{},
	}
	if h.PeakFP8FLOPs == 0 {
		h.PeakFP8FLOPs = h.PeakBF16FLOPs
	}
	chip, err := b.manifest.chip(card.Kernels, h)
	if err != nil {
		return nil, err
	}
	h.Kernels = b.manifest.Hardware[chip].Kernels
	link := b.manifest.Hardware[b.manifest.link(chip, h)].Kernels
	h.Kernels.Measured, h.Kernels.Link = false, link.Link
	h.Kernels.OneShotLatency, h.Kernels.OneShotEfficiency = link.OneShotLatency, link.OneShotEfficiency
	h.Kernels.TwoShotLatency, h.Kernels.TwoShotRank = link.TwoShotLatency, link.TwoShotRank
	h.Kernels.TwoShotEfficiency = link.TwoShotEfficiency
	if err := h.check("card " + card.Name); err != nil {
		return nil, err
	}
	m := *b.manifest
	m.Hardware, m.Aliases = maps.Clone(m.Hardware), maps.Clone(m.Aliases)
	m.Hardware[card.Name], m.Aliases[alias] = h, card.Name
	return &Bundle{&m, b.boosters, b.digest}, nil
}

// measured are the accelerators with kernel tables of their own that h3 compares others with, in alphabetical order.
func (m *manifest) measured() []string {
	names := slices.Sorted(maps.Keys(m.Hardware))
	return slices.DeleteFunc(names, func(name string) bool { return !m.Hardware[name].Kernels.Measured || strings.Contains(name, "-") })
}

// chip is the accelerator whose kernels a card takes: the named one, or the nearest in memory bandwidth and FLOP/s.
func (m *manifest) chip(named string, h Hardware) (string, error) {
	if named != "" {
		if !m.Hardware[named].Kernels.Measured {
			return "", fmt.Errorf("card: kernels %q; expected one of %s", named, strings.Join(m.measured(), ", "))
		}
		return named, nil
	}
	best, least := "", math.Inf(1)
	for _, name := range m.measured() {
		other := m.Hardware[name]
		far := math.Hypot(math.Log(other.MemoryBandwidthBytesS/h.MemoryBandwidthBytesS), math.Log(other.PeakBF16FLOPs/h.PeakBF16FLOPs))
		if far < least {
			best, least = name, far
		}
	}
	if best == "" {
		return "", fmt.Errorf("card: no accelerator is near; expected positive figures and a bundle with measured kernels")
	}
	return best, nil
}

// link is the accelerator whose all-reduce a card takes: of the same kind (PCIe or not), the nearest in bandwidth, chip first.
func (m *manifest) link(chip string, h Hardware) string {
	best, least := chip, math.Inf(1)
	overPCIe := h.NVLinkBandwidthBytesS < m.Constants.LeastNVLinkBytesS
	for _, name := range append([]string{chip}, m.measured()...) {
		other := m.Hardware[name].NVLinkBandwidthBytesS
		if far := math.Abs(math.Log(other / h.NVLinkBandwidthBytesS)); far < least && other < m.Constants.LeastNVLinkBytesS == overPCIe {
			best, least = name, far
		}
	}
	return best
}

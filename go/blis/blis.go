// Package blis makes h3's step times a latency model of BLIS, from the values that BLIS holds.
//
//	kernel, err := blis.Prepare(blis.Config{Model: ..., GPU: ..., TP: 2})          // once; every error is here, as a value
//	model := blis.New(kernel, blis.Hooks[*sim.Request]{Count: ...})                // one an instance; cannot fail
//	model.StepTime(batch)                                                          // us, at least 1
//
// It knows BLIS's values and the order of its calls, and nothing of its types: docs/blis has the patch that connects them.
package blis

import (
	"fmt"
	"sync"

	"github.com/inference-sim/h3/go/h3bundle"
	"github.com/inference-sim/h3/go/h3bundle/champion"
)

// GPU has the figures of BLIS's hardware table for one accelerator, in its units; 0 where it has none.
type GPU struct {
	Name                             string
	TFlopsPeak, TFlopsFP8, BwPeakTBs float64
	MemoryGiB                        float64
	NVLinkGBps                       float64 // one direction; 0: as the bundle's own or nearest accelerator
	StreamingMultiprocessors         float64 // 0: likewise
}

// Config is one deployment as BLIS describes it.
type Config struct {
	Bundle         *h3bundle.Bundle // nil: the champion that ships with h3
	Model          Model
	ConfigJSON     []byte // the model's HuggingFace config.json where it is at hand: it says more than Model; nil: Model alone
	GenerationJSON []byte // its generation_config.json: whether requests sample with top-p or top-k; nil: they do not
	GPU            GPU
	TP, DP         int
	ExpertParallel bool
}

// Champion is the bundle that ships with h3; it is read once.
var Champion = sync.OnceValues(func() (*h3bundle.Bundle, error) { return h3bundle.Load(champion.Files, ".") })

// Prepare computes all that depends on a deployment alone, or says why h3 cannot serve it. A kernel is read-only: all
// instances of the deployment may share it.
func Prepare(c Config) (*h3bundle.Kernel, error) {
	kernel, err := c.kernel()
	if err != nil {
		return nil, fmt.Errorf("h3: %w", err)
	}
	return kernel, nil
}

func (c Config) kernel() (*h3bundle.Kernel, error) {
	deployment, err := c.deployment()
	if err != nil {
		return nil, err
	}
	bundle := c.Bundle
	if bundle == nil {
		if bundle, err = Champion(); err != nil {
			return nil, err
		}
	}
	bundle, deployment.Hardware, err = bundle.WithFigures(c.GPU.card())
	if err != nil {
		return nil, err
	}
	return bundle.Kernel(deployment)
}

func (c Config) deployment() (d h3bundle.Deployment, err error) {
	if c.DP > 1 {
		return d, fmt.Errorf("data parallelism %d: ranks that exchange tokens (all-to-all) were never measured; expected DP 1, an instance a replica", c.DP)
	}
	if c.TP < 1 {
		return d, fmt.Errorf("TP=%d; expected at least 1", c.TP)
	}
	if c.ConfigJSON == nil {
		d.Architecture, err = c.Model.Architecture()
	} else if d.Architecture, err = h3bundle.ParseConfig(c.ConfigJSON); err == nil {
		c.Model.inferred(&d.Architecture)
	}
	if err == nil && c.GenerationJSON != nil {
		d.TruncatedSampling, err = h3bundle.TruncatesSampling(c.GenerationJSON)
	}
	d.TensorParallelism = c.TP
	d.ExpertParallel = c.ExpertParallel && d.Architecture.MoE()
	return d, err
}

const gib = 1 << 30

func (g GPU) card() h3bundle.Card {
	return h3bundle.Card{
		Name: g.Name, PeakBF16FLOPs: g.TFlopsPeak * 1e12, PeakFP8FLOPs: g.TFlopsFP8 * 1e12, MemoryBandwidthBytesS: g.BwPeakTBs * 1e12,
		LinkBytesS: g.NVLinkGBps * 1e9, MemoryBytes: g.MemoryGiB * gib, StreamingMultiprocessors: g.StreamingMultiprocessors,
	}
}

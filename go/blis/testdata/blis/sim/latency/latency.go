package latency

import (
	"fmt"

	"github.com/inference-sim/inference-sim/sim"
)

type Option func(*options)

type options struct{ adapterCost sim.AdapterCost }

// WithAdapterCost gives what adapters cost.
func WithAdapterCost(cost sim.AdapterCost) Option { return func(o *options) { o.adapterCost = cost } }

// NewLatencyModel makes the backend that the configuration names.
func NewLatencyModel(coeffs sim.LatencyCoeffs, hw sim.ModelHardwareConfig, opts ...Option) (sim.LatencyModel, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	// coefficients of all backends
	if len(coeffs.AlphaCoeffs) < 3 {
		return nil, fmt.Errorf("three alpha coefficients are needed")
	}
	return nil, fmt.Errorf("unknown backend %q", hw.Backend)
}

package h3bundle

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// DefaultLevel is the share of steps that the intervals of golden vectors hold.
const DefaultLevel = 0.9

type trainedOn struct {
	Deployments    []knownDeployment `json:"deployments" items:"0,4096"`
	DecodeRequests []float64         `json:"decode_requests" items:"2,2" within:"0,2147483647"`
	ContextTokens  []float64         `json:"context_tokens" items:"2,2" within:"0,2147483647"`
	PrefillTokens  []float64         `json:"prefill_tokens" items:"2,2" within:"0,2147483647"`
}

// kindInterval is one kind of novelty's interval: novelty on the prediction by level.
type kindInterval struct {
	Low      []float64 `json:"low" items:"1,16" within:"1e-9,1"`
	High     []float64 `json:"high" items:"1,16" within:"1,1e9"`
	Groups   int       `json:"groups" within:"1,1e6"`
	Coverage []float64 `json:"coverage,optional" within:"0,1"`
	Words    string    `json:"words"`
}

type uncertainty struct {
	Levels          []float64               `json:"levels" items:"1,16" within:"0.01,0.999"`
	Kinds           map[string]kindInterval `json:"kinds"`
	KernelsMeasured []string                `json:"kernels_measured" items:"0,64"`
	Words           string                  `json:"words"`
}

var kindWords = map[string]string{
	"known": "known deployment", "new_workload": "new workload", "new_model": "new model", "new_moe": "new MoE model",
	"new_gpu": "new GPU", "new_gpu_no_kernels": "new GPU without kernel measurements",
}

// Interval holds a step's measured period with the level that was asked for. Known is false where the bundle has none; Kind
// says in words what is new about the step.
type Interval struct {
	LowUS, HighUS float64
	Known         bool
	Kind          string
}

// novelty on a predicted period.
type novelty struct {
	low, high float64
	known     bool
	kind      string
}

// Intervals are those of one deployment at one level: read-only, without allocation.
type Intervals struct {
	requests, context, prefill [2]float64 // ranges in training
	by                         [2]novelty // inside the workloads of training, outside
}

// Levels are the shares of steps for which the bundle has intervals.
func (b *Bundle) Levels() []float64 { return slices.Clone(b.manifest.Uncertainty.Levels) }

// UncertaintyNote says what the intervals are, and which kinds have none and why.
func (b *Bundle) UncertaintyNote() string { return b.manifest.Uncertainty.Words }

// Intervals prepares the intervals of one deployment; level is one of Levels (any, where no kind has an interval).
func (b *Bundle) Intervals(d Deployment, level float64) (*Intervals, error) {
	hardware, ok := b.manifest.hardwareName(d.Hardware)
	if !ok {
		return nil, fmt.Errorf("unknown hardware %q", d.Hardware)
	}
	u, t := &b.manifest.Uncertainty, &b.manifest.TrainedOn
	at := slices.Index(u.Levels, level)
	if at < 0 && len(u.Kinds) > 0 {
		return nil, fmt.Errorf("level %g; expected one of %v", level, u.Levels)
	}
	in := &Intervals{requests: [2]float64(t.DecodeRequests), context: [2]float64(t.ContextTokens), prefill: [2]float64(t.PrefillTokens)}
	if slices.Contains(t.Deployments, known(d.Architecture, d.TensorParallelism, hardware)) {
		in.by = [2]novelty{u.combined(at, "known"), u.combined(at, "new_workload")}
		return in, nil
	}
	kinds := []string{"new_model"}
	if d.Architecture.MoE() {
		kinds[0] = "new_moe"
	}
	var gpu []string
	if !slices.ContainsFunc(t.Deployments, func(k knownDeployment) bool { return k.Hardware == hardware }) {
		gpu = []string{"new_gpu_no_kernels"}
		if slices.Contains(u.KernelsMeasured, hardware) {
			gpu[0] = "new_gpu"
		}
	}
	in.by = [2]novelty{u.combined(at, append(slices.Clone(kinds), gpu...)...), u.combined(at, append(append(kinds, "new_workload"), gpu...)...)}
	return in, nil
}

// combined adds the kinds' half widths in quadrature, in log; errors of several novelties are taken as independent.
func (u *uncertainty) combined(at int, kinds ...string) novelty {
	low, high, f := 0.0, 0.0, novelty{known: true}
	words := make([]string, len(kinds))
	for i, name := range kinds {
		words[i] = kindWords[name]
		kind, ok := u.Kinds[name]
		if !ok {
			f.known = false
			continue
		}
		low += square(math.Log(kind.Low[at]))
		high += square(math.Log(kind.High[at]))
	}
	f.kind = strings.Join(words, " + ")
	if !f.known {
		if len(u.Kinds) == 0 {
			f.kind = u.Words
		}
		f.kind = "no interval: " + f.kind
		return f
	}
	f.low, f.high = math.Exp(-math.Sqrt(low)), math.Exp(math.Sqrt(high))
	return f
}

func square(x float64) float64 { return x * x }

// Of is the interval of a step of the given composition whose predicted period is us.
func (in *Intervals) Of(c *Composition, us float64) Interval {
	f := &in.by[0]
	if in.outside(c) {
		f = &in.by[1]
	}
	return Interval{us * f.low, us * f.high, f.known, f.kind}
}

func (in *Intervals) outside(c *Composition) bool {
	off := func(value float64, bounds *[2]float64) bool { return value < bounds[0] || value > bounds[1] }
	requests := float64(c.DecodeReqs)
	if off(requests, &in.requests) || off(float64(max(c.PrefillTokens, c.PrefillReqs)), &in.prefill) {
		return true
	}
	return requests > 0 && off(float64(c.DecodeKVTokens)/requests, &in.context)
}

func (m *manifest) checkUncertainty() error {
	u, t := &m.Uncertainty, &m.TrainedOn
	for name, bounds := range map[string][]float64{"decode_requests": t.DecodeRequests, "context_tokens": t.ContextTokens, "prefill_tokens": t.PrefillTokens} {
		if bounds[0] > bounds[1] {
			return fmt.Errorf("trained_on.%s: %v; expected the lower bound first", name, bounds)
		}
	}
	for i := range u.Levels[1:] {
		if u.Levels[i] >= u.Levels[i+1] {
			return fmt.Errorf("uncertainty.levels: %v; expected rising ones", u.Levels)
		}
	}
	for name, kind := range u.Kinds {
		if err := kind.check(name, len(u.Levels)); err != nil {
			return err
		}
	}
	return nil
}

func (k *kindInterval) check(name string, levels int) error {
	if _, ok := kindWords[name]; !ok {
		return fmt.Errorf("uncertainty.kinds: unknown kind %.80q", name)
	}
	if len(k.Low) != levels || len(k.High) != levels || (k.Coverage != nil && len(k.Coverage) != levels) {
		return fmt.Errorf("uncertainty.kinds.%s: %d, %d and %d numbers; expected %d", name, len(k.Low), len(k.High), len(k.Coverage), levels)
	}
	for i := range levels - 1 {
		if k.High[i] > k.High[i+1] || k.Low[i] < k.Low[i+1] {
			return fmt.Errorf("uncertainty.kinds.%s: an interval narrower than that of a lower level", name)
		}
	}
	return nil
}

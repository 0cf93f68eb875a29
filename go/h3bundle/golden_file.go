package h3bundle

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// How nearly a golden vector must be met, relative; the same as h3's golden_file.py.
const (
	featureLimit  = 1e-6
	marginLimit   = 1e-5
	periodLimit   = 1e-5
	intervalLimit = 1e-5
)

// sampledVectors are evaluated whenever a bundle is loaded, beside the first of each accelerator.
const sampledVectors = 24

type goldenFile struct {
	_            open
	Format       string            `json:"format"`
	FeatureNames []string          `json:"feature_names"`
	Configs      map[string]object `json:"configs"`
	Truncated    []string          `json:"truncated_sampling"`
	Vectors      []goldenVector    `json:"vectors" items:"500,1e6"`
}

type goldenVector struct {
	_                 open
	Config            string     `json:"config"`
	TensorParallelism int        `json:"tensor_parallelism" within:"1,65536"`
	Hardware          string     `json:"hardware"`
	Requests          [][3]int64 `json:"requests" within:"0,2147483647"`
	Features          []float64  `json:"features"`
	Margin            float64    `json:"margin"`
	US                float64    `json:"us"`
	LowUS             *float64   `json:"low_us"`
	HighUS            *float64   `json:"high_us"`
	Kind              string     `json:"kind"`
}

// checkGolden checks a golden file and evaluates a sample of its vectors, spread evenly.
func (b *Bundle) checkGolden(data []byte) error {
	var g goldenFile
	if err := bind(data, &g); err != nil {
		return err
	}
	if g.Format != "h3-golden" {
		return fmt.Errorf("format: %.80q; expected \"h3-golden\"", g.Format)
	}
	if names := b.FeatureNames(); !slices.Equal(g.FeatureNames, names) {
		return fmt.Errorf("feature_names: %.200q; expected %q", g.FeatureNames, names)
	}
	for i := range g.Vectors {
		v := &g.Vectors[i]
		_, known := g.Configs[v.Config]
		_, there := b.manifest.hardwareName(v.Hardware)
		if !known || !there || !hardwareNames.MatchString(v.Hardware) || len(v.Features) != len(g.FeatureNames) {
			return fmt.Errorf("vector %d: config %.80q, hardware %.80q, %d features; expected a config of the file, hardware of the manifest and %d features", i, v.Config, v.Hardware, len(v.Features), len(g.FeatureNames))
		}
	}
	for _, at := range g.sample() {
		if err := b.meets(&g, &g.Vectors[at]); err != nil {
			return fmt.Errorf("vector %d: %w", at, err)
		}
	}
	return nil
}

// sample are sampledVectors vectors, spread evenly, and the first of each accelerator.
func (g *goldenFile) sample() []int {
	chosen, seen := []int{}, map[string]bool{}
	for i := range sampledVectors {
		chosen = append(chosen, i*(len(g.Vectors)-1)/(sampledVectors-1))
	}
	for i := range g.Vectors {
		if name := strings.ToLower(g.Vectors[i].Hardware); !seen[name] {
			seen[name] = true
			chosen = append(chosen, i)
		}
	}
	slices.Sort(chosen)
	return slices.Compact(chosen)
}

// meets evaluates a vector; the error says what differs.
func (b *Bundle) meets(g *goldenFile, v *goldenVector) error {
	config := g.Configs[v.Config]
	c := Case{config.raw, v.TensorParallelism, v.Hardware, slices.Contains(g.Truncated, v.Config), nil}
	kernel, err := b.KernelOf(c)
	if err != nil {
		return err
	}
	intervals, err := b.IntervalsOf(c, DefaultLevel)
	if err != nil {
		return err
	}
	composition := kernel.Composition()
	for _, r := range v.Requests {
		composition.Add(r[0], r[1], r[2])
	}
	p := kernel.Evaluate(&composition)
	for i, expected := range v.Features {
		if err := differs("feature", float64(p.Features[i]), expected, featureLimit); err != nil {
			return err
		}
	}
	if err := differs("margin", float64(p.Margin), v.Margin, marginLimit); err != nil {
		return err
	}
	if err := differs("us", p.US, v.US, periodLimit); err != nil {
		return err
	}
	return v.meetsInterval(intervals.Of(&composition, p.US))
}

func (v *goldenVector) meetsInterval(found Interval) error {
	if found.Kind != v.Kind || found.Known != (v.LowUS != nil) || found.Known != (v.HighUS != nil) {
		return fmt.Errorf("interval: %q; expected %.80q", found.Kind, v.Kind)
	}
	if !found.Known {
		return nil
	}
	if err := differs("interval", found.LowUS, *v.LowUS, intervalLimit); err != nil {
		return err
	}
	return differs("interval", found.HighUS, *v.HighUS, intervalLimit)
}

func differs(name string, found, expected, limit float64) error {
	if off := relative(found, expected); !(off <= limit) {
		return fmt.Errorf("%s differs by %.3g relative; expected at most %g", name, off, limit)
	}
	return nil
}

// relative is |found - expected| / |expected|; absolute where 0 is expected.
func relative(found, expected float64) float64 {
	if expected == 0 {
		return math.Abs(found)
	}
	return math.Abs(found-expected) / math.Abs(expected)
}

package h3bundle

import (
	"slices"
	"strings"
	"testing"
)

func TestIntervalsOfEveryGoldenVectorAgree(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	kinds := map[string]int{}
	for i, v := range g.Vectors {
		c := Case{g.Configs[v.Config], v.TensorParallelism, v.Hardware, slices.Contains(g.Truncated, v.Config), nil}
		intervals, err := bundle.IntervalsOf(c, DefaultLevel)
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		kernel, err := bundle.KernelOf(c)
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		composition := kernel.Compose(v.Requests)
		found := intervals.Of(&composition, v.US)
		if found.Kind != v.Kind || found.Known != (v.LowUS != nil) || found.Known != (v.HighUS != nil) {
			t.Errorf("vector %d: %+v; expected %q, %v to %v", i, found, v.Kind, v.LowUS, v.HighUS)
			continue
		}
		if found.Known && (!(relative(found.LowUS, *v.LowUS) <= 1e-9) || !(relative(found.HighUS, *v.HighUS) <= 1e-9)) {
			t.Errorf("vector %d: %v to %v us; expected %v to %v", i, found.LowUS, found.HighUS, *v.LowUS, *v.HighUS)
		}
		kinds[v.Kind]++
	}
	if len(kinds) < 8 {
		t.Errorf("kinds %v; expected eight at least", kinds)
	}
}

func TestHigherLevelsHaveWiderIntervals(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	c, width := Case{g.Configs["small-1b"], 1, "H100", false, nil}, 0.0
	for _, level := range bundle.Levels() {
		intervals, err := bundle.IntervalsOf(c, level)
		if err != nil {
			t.Fatal(err)
		}
		found := intervals.Of(&Composition{}, 1000)
		if !found.Known || found.HighUS-found.LowUS <= width {
			t.Errorf("%g: %+v; expected wider than %v us", level, found, width)
		}
		width = found.HighUS - found.LowUS
	}
	if _, err := bundle.IntervalsOf(c, 0.42); err == nil || !strings.Contains(err.Error(), "expected one of") {
		t.Errorf("%v; expected a refusal of a level that is not there", err)
	}
}

func TestIntervalsDoNotAllocate(t *testing.T) {
	kernel := testKernel(t, "llama-2-7b", 1)
	intervals, err := openGolden(t).IntervalsOf(Case{readGolden(t).Configs["llama-2-7b"], 1, "H100", false, nil}, DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	var composition Composition
	composition.Add(600, 1, 512)
	if allocations := testing.AllocsPerRun(100, func() { intervals.Of(&composition, kernel.PeriodUS(&composition)) }); allocations != 0 {
		t.Errorf("%v allocations; expected none", allocations)
	}
}

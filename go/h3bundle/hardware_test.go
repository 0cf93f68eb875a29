package h3bundle

import (
	"strings"
	"testing"
)

var a100Card = Card{Name: "Mine", PeakBF16FLOPs: 312e12, MemoryBandwidthBytesS: 2.039e12, LinkBytesS: 300e9, MemoryBytes: 80e9, StreamingMultiprocessors: 108}

func TestACardWithAnA100sFiguresTakesAnA100sTime(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	mine, err := bundle.WithCard(a100Card)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.KernelOf(Case{g.Configs["llama-2-70b"], 4, "Mine", false, nil}); err == nil {
		t.Error("the bundle itself knows the card")
	}
	requests := []Request{{600, 1, 512}, {0, 300, 300}}
	var us [2]float64
	for i, name := range []string{"mine", "A100"} {
		kernel, err := mine.KernelOf(Case{g.Configs["llama-2-70b"], 4, name, false, requests})
		if err != nil {
			t.Fatal(err)
		}
		composition := kernel.Compose(requests)
		us[i] = kernel.PeriodUS(&composition)
	}
	if us[0] != us[1] {
		t.Errorf("%g us on the card; expected %g as on an A100", us[0], us[1])
	}
}

func TestACardOverPCIeTakesTheAllReduceOfOne(t *testing.T) {
	card := a100Card
	card.LinkBytesS, card.Kernels = 64e9, "A100"
	mine, err := openGolden(t).WithCard(card)
	if err != nil {
		t.Fatal(err)
	}
	if k := mine.manifest.Hardware["Mine"].Kernels; k.Profile != "A100" || k.Link != "L40S" || k.Measured {
		t.Errorf("kernels of %s, all-reduce of %s, measured: %v; expected A100, L40S, false", k.Profile, k.Link, k.Measured)
	}
}

func TestABadCardIsRefusedWithTheReason(t *testing.T) {
	bundle := openGolden(t)
	for expected, change := range map[string]func(*Card){
		"is empty or taken":    func(c *Card) { c.Name = "H100" },
		"expected one of A100": func(c *Card) { c.Kernels = "V100" },
		"memory_bandwidth_bytes_s: 0; expected 1e+06 to 1e+18": func(c *Card) { c.MemoryBandwidthBytesS, c.Kernels = 0, "A100" },
		"no accelerator is near":                               func(c *Card) { c.MemoryBandwidthBytesS = -1 },
		"streaming_multiprocessors: 0; expected 1 to 1e+06":    func(c *Card) { c.StreamingMultiprocessors = 0 },
	} {
		card := a100Card
		change(&card)
		if _, err := bundle.WithCard(card); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v; expected an error with %q", err, expected)
		}
	}
	for card, expected := range map[string]string{
		`{"name":"x","speed":1}`: `unknown key "speed"`, `{"name":"x","Name":"y"}`: `unknown key "Name"`, `{"name":null}`: "name: holds null; expected string",
		`{"memory_bytes":"8"}`: "memory_bytes: holds string; expected number",
	} {
		if _, err := ParseCard([]byte(card)); err == nil || err.Error() != expected {
			t.Errorf("%s: %v; expected %s", card, err, expected)
		}
	}
}

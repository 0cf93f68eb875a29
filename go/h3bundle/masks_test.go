package h3bundle

import (
	"math"
	"math/rand"
	"testing"
)

// oddThresholds are few, so that rows often hold them exactly.
var oddThresholds = []float32{0, float32(math.Copysign(0, -1)), -1, 1, 0.5, 1e-45, -1e-45, 3e38, -3e38, 0.1, 0.2, 0.3}

func oddValues() []float32 {
	values := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32, -math.MaxFloat32}
	for _, t := range oddThresholds {
		values = append(values, t, math.Nextafter32(t, 9e37), math.Nextafter32(t, -9e37))
	}
	return values
}

// grownTree splits leaves at random until it has so many of them, each at most so deep.
func grownTree(random *rand.Rand, leaves, depth, features int) map[string]any {
	left, right, levels, open := []int{-1}, []int{-1}, []int{0}, []int{0}
	for len(open) > 0 && (len(left)+1)/2 < leaves {
		pick := random.Intn(len(open))
		at := open[pick]
		open[pick] = open[len(open)-1]
		open = open[:len(open)-1]
		if levels[at] == depth {
			continue
		}
		left[at], right[at] = len(left), len(left)+1
		open = append(open, left[at], right[at])
		left, right = append(left, -1, -1), append(right, -1, -1)
		levels = append(levels, levels[at]+1, levels[at]+1)
	}
	index, defaults, condition := make([]int, len(left)), make([]int, len(left)), make([]float32, len(left))
	for i := range left {
		index[i], defaults[i] = random.Intn(features), random.Intn(2)
		condition[i] = oddThresholds[random.Intn(len(oddThresholds))]
		if left[i] == -1 {
			condition[i] = float32(random.NormFloat64() * 0.01)
		}
	}
	return map[string]any{
		"left_children": left, "right_children": right, "split_indices": index, "split_conditions": condition, "default_left": defaults,
	}
}

func parsed(t testing.TB, names []string, trees ...map[string]any) *booster {
	t.Helper()
	b, err := parseBooster(boosterJSON(t, names, trees), names)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMasksGiveTheWalksMarginToTheLastBit(t *testing.T) {
	random, values := rand.New(rand.NewSource(7)), oddValues()
	for i := range 600 {
		depth := 1 + i%6
		names, trees := fuzzFeatures[:1+random.Intn(len(fuzzFeatures))], []map[string]any{}
		for range random.Intn(40) {
			trees = append(trees, grownTree(random, 1+random.Intn(laneLeaves), depth, len(names)))
		}
		b := parsed(t, names, trees...)
		if b.masks == nil {
			t.Fatalf("booster %d: no masks for trees of at most %d leaves", i, laneLeaves)
		}
		for range 50 {
			var x row
			for f := range fuzzFeatures {
				x[f] = values[random.Intn(len(values))]
			}
			expected, got := b.walk(&x), b.masks.margin(&x)
			if math.Float32bits(got) != math.Float32bits(expected) || b.margin(&x) != expected {
				t.Fatalf("booster %d, depth %d, row %v: %v; expected %v", i, depth, x, got, expected)
			}
		}
	}
}

func TestTreesThatMasksCannotHoldAreWalked(t *testing.T) {
	random := rand.New(rand.NewSource(8))
	small, large := grownTree(random, laneLeaves, 6, 4), grownTree(random, laneLeaves+1, 6, 4)
	many, err := parseBooster(randomBooster(t, 2000, 4), fuzzFeatures)
	if err != nil {
		t.Fatal(err)
	}
	names := fuzzFeatures[:4]
	for name, b := range map[string]*booster{
		"the first tree is too large": parsed(t, names, large, small), "the last one": parsed(t, names, small, small, large), "more than 8 MB": many,
	} {
		x := row{0.2, 1, -1, 0.5}
		if b.masks != nil || b.margin(&x) != b.walk(&x) {
			t.Errorf("%s: %v; expected the walk's %v", name, b.margin(&x), b.walk(&x))
		}
	}
}

package h3bundle

import (
	"math"
	"math/rand"
	"testing"
)

// variedBatches are batches of 128 requests at different progress, every fourth one with a chunk of prefill: where all steps
// are alike, a processor learns the way through the trees by heart.
func variedBatches(count int) [][]Tokens {
	random, batches := rand.New(rand.NewSource(2)), make([][]Tokens, count)
	for i := range batches {
		longest := 100 + random.Int63n(4000)
		for range 128 {
			batches[i] = append(batches[i], Tokens{Scheduled: 1, Computed: 100 + random.Int63n(longest), Prompt: 100})
		}
		if i%4 == 0 {
			batches[i][0] = Tokens{Scheduled: 1 + random.Int63n(2048), Prompt: 4096}
		}
	}
	return batches
}

// trusting is the kernel with those trees, which are trusted everywhere: so that each step of a benchmark asks them.
func trusting(kernel *Kernel, b *booster) *Kernel {
	with := *kernel
	with.booster, with.trusted, with.features = b, 1, nil
	for _, feature := range kernel.features {
		with.features = append(with.features, selected{feature.index, newRange(-math.MaxFloat32, math.MaxFloat32)})
	}
	return &with
}

// benchmarkKernel measures a step as BLIS asks for it, and the trees' part of it by each walk, for 128 requests and the largest
// booster that tuning allows: 200 trees of depth 4. One walk replaces another only by what a whole step gains.
func benchmarkKernel(b *testing.B, config string, tp int) {
	batches := variedBatches(256)
	trees, err := parseBooster(randomBooster(b, 200, 4), openGolden(b).FeatureNames())
	if err != nil {
		b.Fatal(err)
	}
	base := trusting(testKernel(b, config, tp), &booster{})
	corrected, rows := trusting(base, trees), make([]row, len(batches))
	for i := range batches {
		c := base.Composition()
		for _, r := range batches[i] {
			c.Add(r.Computed, r.Scheduled, r.Prompt)
		}
		rows[i] = base.Evaluate(&c).Features
	}
	for _, step := range []struct {
		name   string
		kernel *Kernel
	}{{"without trees", base}, {"200 trees", corrected}} {
		b.Run("step/"+step.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				step.kernel.StepUS(batches[i%len(batches)])
			}
		})
	}
	for _, way := range []struct {
		name   string
		margin func(*row) float32
	}{{"masks", trees.masks.margin}, {"walk", trees.walk}, {"blocks", newBlocks(trees).margin}} {
		b.Run("margin/"+way.name, func(b *testing.B) {
			for i := 0; i < b.N; i++ {
				if x := &rows[i%len(rows)]; i < len(rows) && way.margin(x) != trees.walk(x) {
					b.Fatalf("row %d: %v", i, *x)
				}
				way.margin(&rows[i%len(rows)])
			}
		})
	}
}

func BenchmarkDense(b *testing.B) { benchmarkKernel(b, "llama-2-70b", 4) }

func BenchmarkMoE(b *testing.B) { benchmarkKernel(b, "mixtral-8x7b", 2) }

// blocks are the masks' rival: complete trees of depth 4, walked four at once, level by level, without branches. The children
// of node i are 2i and, below the threshold, 2i+1; the leaves follow as nodes 16 to 31. Thresholds and values are whole numbers
// in the same order as the floats; missing values are not provided for.
type blocks struct {
	nodes  []blockNodes
	leaves [][16]float32
}

type blockNodes [16]struct {
	threshold int32
	feature   uint32
}

func newBlocks(b *booster) *blocks {
	whole := (len(b.trees) + 3) / 4 * 4
	made := &blocks{make([]blockNodes, whole), make([][16]float32, whole)}
	for tree, root := range b.trees {
		var fill func(at int32, i int)
		fill = func(at int32, i int) {
			n := b.nodes[at]
			left, right := at, at // a leaf above the last level fills all places below it
			switch {
			case i >= 16:
				made.leaves[tree][i-16] = n.value
				return
			case n.child != 0:
				made.nodes[tree][i].threshold, made.nodes[tree][i].feature = ordered(n.value), uint32(n.feature)
				left, right = n.child+1, n.child
			}
			fill(right, 2*i)
			fill(left, 2*i+1)
		}
		fill(root, 1)
	}
	return made
}

// ordered maps floats to whole numbers that compare alike, -0 and 0 to the same one.
func ordered(x float32) int32 {
	bits := int32(math.Float32bits(x + 0))
	return bits ^ int32(uint32(bits>>31)>>1)
}

// below is 1 if x < y, else 0.
func below(x, y int32) uint32 { return uint32(uint64(int64(x)-int64(y)) >> 63) }

func (b *blocks) margin(x *row) float32 {
	var keys [maxFeatures]int32
	for i := range numFeatures {
		keys[i] = ordered(x[i])
	}
	var total float32
	for i := 0; i+4 <= len(b.nodes); i += 4 {
		nodes, leaves := (*[4]blockNodes)(b.nodes[i:]), (*[4][16]float32)(b.leaves[i:])
		p, q, r, s := uint32(1), uint32(1), uint32(1), uint32(1)
		for range 4 {
			k, l, m, n := &nodes[0][p&15], &nodes[1][q&15], &nodes[2][r&15], &nodes[3][s&15]
			p, q = 2*p+below(keys[k.feature%maxFeatures], k.threshold), 2*q+below(keys[l.feature%maxFeatures], l.threshold)
			r, s = 2*r+below(keys[m.feature%maxFeatures], m.threshold), 2*s+below(keys[n.feature%maxFeatures], n.threshold)
		}
		total += leaves[0][p&15]
		total += leaves[1][q&15]
		total += leaves[2][r&15]
		total += leaves[3][s&15]
	}
	return total
}

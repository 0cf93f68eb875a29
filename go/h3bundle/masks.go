package h3bundle

import (
	"math"
	"math/bits"
	"slices"
)

const (
	lanes        = 4       // trees in a word
	laneLeaves   = 16      // leaves that a tree may have to fit its lane: a complete tree of depth 4
	maxMaskWords = 1 << 20 // 8 MB a booster
)

// masks find all trees' leaves at once. Every split that does not hold rules out the leaves on its left; of those that are left
// over, the leftmost is the one that the row reaches (QuickScorer: Lucchese et al., SIGIR 2015). QuickScorer ands one mask for
// each such split. Here that is done beforehand: where a value lies among the thresholds of its feature decides all splits on
// that feature, so each feature has a row of masks for each such place, and a margin is the and of one row a feature.
// A row has a lane of 16 bits for each tree, with the leaves from left to right in its bits from the lowest to the highest.
type masks struct {
	columns []maskColumn
	none    []uint64  // the row that rules out nothing
	leaves  []float32 // 16 a tree
}

// maskColumn is a feature with its thresholds in ascending order, without repeats, and len(thresholds)+2 rows: row i for values
// that i thresholds do not exceed, the last one for a missing value.
type maskColumn struct {
	feature    uint8
	thresholds []float32
	rows       []uint64
}

// newMasks is nil where the trees do not fit: too many leaves, or too much memory.
func newMasks(b *booster) *masks {
	for i, root := range b.trees {
		end := len(b.nodes)
		if i+1 < len(b.trees) {
			end = int(b.trees[i+1])
		}
		if end-int(root) > 2*laneLeaves-1 {
			return nil
		}
	}
	m := &masks{none: make([]uint64, (len(b.trees)+lanes-1)/lanes)}
	m.leaves = make([]float32, len(m.none)*lanes*laneLeaves)
	for i := range m.none {
		m.none[i] = math.MaxUint64
	}
	if !m.addColumns(b) {
		return nil
	}
	for tree, root := range b.trees {
		m.addTree(b, tree, root, 0)
	}
	for i := range m.columns { // what a lower value rules out, a higher one does too; a missing one follows the defaults alone
		rows, words := m.columns[i].rows, len(m.none)
		for at := words; at < len(rows)-words; at++ {
			rows[at] &= rows[at-words]
		}
	}
	return m
}

// addColumns makes a column that rules out nothing for each feature that trees use, and says whether all of them fit.
func (m *masks) addColumns(b *booster) bool {
	var thresholds [maxFeatures][]float32
	for _, n := range b.nodes {
		if n.child != 0 {
			thresholds[n.feature] = append(thresholds[n.feature], n.value)
		}
	}
	words := 0
	for feature, sorted := range thresholds {
		if len(sorted) == 0 {
			continue
		}
		slices.Sort(sorted)
		sorted = slices.Compact(sorted)
		words += (len(sorted) + 2) * len(m.none)
		if len(m.columns) == numFeatures || words > maxMaskWords {
			return false
		}
		m.columns = append(m.columns, maskColumn{uint8(feature), sorted, slices.Repeat(m.none, len(sorted)+2)})
	}
	return true
}

// addTree enters the tree below a node, whose first leaf has that number, and returns the number after its last one.
func (m *masks) addTree(b *booster, tree int, at int32, first int) int {
	n := &b.nodes[at]
	if n.child == 0 {
		m.leaves[tree*laneLeaves+first] = n.value
		return first + 1
	}
	middle := m.addTree(b, tree, n.child+1, first)
	last := m.addTree(b, tree, n.child, middle)
	left := uint64(1<<middle-1<<first) << (tree % lanes * laneLeaves)
	for i := range m.columns {
		if c := &m.columns[i]; c.feature == n.feature {
			place, _ := slices.BinarySearch(c.thresholds, n.value)
			c.row(place+1, len(m.none))[tree/lanes] &^= left
			if !n.missingLeft {
				c.row(len(c.thresholds)+1, len(m.none))[tree/lanes] &^= left
			}
		}
	}
	return last
}

func (c *maskColumn) row(i, words int) []uint64 { return c.rows[i*words : (i+1)*words] }

// place is the number of thresholds that x is not below; where x is missing, one more than there are. Without branches that
// depend on x: a processor cannot foresee them.
func (c *maskColumn) place(x float32) int {
	base, thresholds := 0, c.thresholds
	for n := len(thresholds); n > 1; {
		half := n / 2
		next := base + half
		if !(x < thresholds[next-1]) {
			base = next
		}
		n -= half
	}
	if !(x < thresholds[base]) {
		base++
	}
	if x != x {
		base = len(thresholds) + 1
	}
	return base
}

// margin adds up the leaves in the order of the trees, so that it is the walk's to the last bit.
func (m *masks) margin(x *row) float32 {
	var r [numFeatures][]uint64
	words := len(m.none)
	for i := range r {
		r[i] = m.none
		if i < len(m.columns) {
			c := &m.columns[i]
			r[i] = c.row(c.place(x[c.feature%maxFeatures]), words)
		}
	}
	r0, r1, r2 := r[0][:words], r[1][:words], r[2][:words]
	r3, r4, r5 := r[3][:words], r[4][:words], r[5][:words]
	r6, r7, r8 := r[6][:words], r[7][:words], r[8][:words]
	var total float32
	for i := range words {
		left := r0[i] & r1[i] & r2[i] & r3[i] & r4[i] & r5[i] & r6[i] & r7[i] & r8[i]
		leaves := (*[lanes * laneLeaves]float32)(m.leaves[i*lanes*laneLeaves:])
		total += leaves[bits.TrailingZeros64(left)&63]
		total += leaves[(laneLeaves+bits.TrailingZeros64(left>>laneLeaves))&63]
		total += leaves[(2*laneLeaves+bits.TrailingZeros64(left>>(2*laneLeaves)))&63]
		total += leaves[(3*laneLeaves+bits.TrailingZeros64(left>>(3*laneLeaves)))&63]
	}
	return total
}

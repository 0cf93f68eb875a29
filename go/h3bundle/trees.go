package h3bundle

// node of a tree: a row goes to child+1 if x < value in float32, else to child; a missing x goes left or right as the tree
// says. Child 0 marks a leaf (node 0 is the first root), and value is then the leaf's.
type node struct {
	value       float32
	child       int32
	feature     uint8
	missingLeft bool
}

// booster is the sum of trees on a fixed list of features; it is read-only once built and prepared.
type booster struct {
	nodes []node
	trees []int32 // roots
	masks *masks  // the same trees, quicker; nil where they do not fit
}

// row is a matrix row, as wide as any bundle's feature list may be.
type row [maxFeatures]float32

// prepare is called once all trees are added.
func (b *booster) prepare() *booster {
	b.masks = newMasks(b)
	return b
}

// margin adds up the leaves in float32, tree by tree from 0, as XGBoost does.
func (b *booster) margin(x *row) float32 {
	if b.masks != nil {
		return b.masks.margin(x)
	}
	return b.walk(x)
}

// walk follows each tree from its root: the reference, and what is left for trees that masks cannot hold.
func (b *booster) walk(x *row) float32 {
	var total float32
	nodes := b.nodes
	for _, root := range b.trees {
		n := &nodes[root]
		for n.child != 0 {
			value := x[n.feature%maxFeatures]
			left := value < n.value
			if value != value { // NaN: missing
				left = n.missingLeft
			}
			child := n.child
			if left {
				child++
			}
			n = &nodes[child]
		}
		total += n.value
	}
	return total
}

package sim

import "github.com/inference-sim/inference-sim/sim/util"

type cache struct{ blocks []int }

func (c cache) BlockSize() int64 { return 16 }

type batchContext struct{ KVCache cache }

// Schedule admits a waiting request.
func Schedule(next *Request, blocks int) {
	ctx := batchContext{cache{make([]int, blocks)}}
	cachedBlocks := ctx.KVCache.blocks
	for range 1 {
		startIndex := util.Len64(cachedBlocks) * ctx.KVCache.BlockSize()
		next.NumNewTokens = int(next.InputLen() - startIndex)
	}
}

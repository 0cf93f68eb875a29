package standin

// prefix is what requests must have in common to hold the same blocks.
type prefix struct{ group, tokens int64 }

// blocks is the KV cache: how many blocks are free, and how many requests hold each shared prefix.
type blocks struct {
	size, free int64
	holders    map[prefix]int
}

// of is how many blocks so many tokens fill.
func (b *blocks) of(tokens int64) int64 { return (tokens + b.size - 1) / b.size }

// grow takes the blocks that a running request's new tokens open; false if there are too few.
func (b *blocks) grow(r *Request) bool {
	return b.take(b.of(r.computed()+int64(r.NumNewTokens)) - b.of(r.computed()))
}

// admit finds the prefix of a waiting request in the cache and takes the blocks of its first chunk, within a budget of tokens;
// false, and nothing is changed, if there are too few.
func (b *blocks) admit(r *Request, budget int64) bool {
	r.CachedTokens = min(r.PrefixTokens, r.InputTokens, r.missing()-1) / b.size * b.size
	r.NumNewTokens = int(min(r.missing(), budget))
	wanted := b.of(r.CachedTokens + int64(r.NumNewTokens))
	if b.heldByOthers(r) {
		wanted -= r.CachedTokens / b.size
	}
	if !b.take(wanted) {
		r.CachedTokens, r.NumNewTokens = 0, 0
		return false
	}
	b.holders[prefix{r.PrefixGroup, r.CachedTokens}]++
	return true
}

// release gives back the blocks of a request but for a prefix that others hold.
func (b *blocks) release(r *Request) {
	b.holders[prefix{r.PrefixGroup, r.CachedTokens}]--
	b.free += b.of(r.computed())
	if b.heldByOthers(r) {
		b.free -= r.CachedTokens / b.size
	}
}

// heldByOthers is asked before a request is counted among the holders of its prefix and after.
func (b *blocks) heldByOthers(r *Request) bool {
	return r.PrefixGroup >= 0 && b.holders[prefix{r.PrefixGroup, r.CachedTokens}] > 0
}

func (b *blocks) take(count int64) bool {
	if count > b.free {
		return false
	}
	b.free -= count
	return true
}

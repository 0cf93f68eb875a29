package standin

import "slices"

// Limits bound a batch: requests, tokens of a step, and the KV cache in blocks of so many tokens.
type Limits struct {
	KVBlocks         int64 `json:"kv_blocks"`
	MaxRunning       int64 `json:"max_num_seqs"`
	MaxBatchedTokens int64 `json:"max_num_batched_tokens"`
	BlockTokens      int64 `json:"block_size_tokens"`
}

// withDefaults fills in what is not given.
func (l Limits) withDefaults() Limits {
	for _, value := range []struct {
		field *int64
		usual int64
	}{{&l.MaxRunning, 128}, {&l.MaxBatchedTokens, 2048}, {&l.BlockTokens, 16}} {
		if *value.field == 0 {
			*value.field = value.usual
		}
	}
	return l
}

// server holds requests by their state; running ones in the order of their admission.
type server struct {
	limits           Limits
	blocks           blocks
	waiting, running []*Request
}

func newServer(limits Limits) *server {
	limits = limits.withDefaults()
	return &server{limits: limits, blocks: blocks{limits.BlockTokens, limits.KVBlocks, map[prefix]int{}}}
}

// enqueue lets a request wait; one that the whole cache cannot hold is rejected.
func (s *server) enqueue(r *Request) {
	r.outcome.Rejected = s.blocks.of(r.InputTokens+max(r.OutputTokens, 1)-1) > s.limits.KVBlocks
	if !r.outcome.Rejected {
		s.waiting = append(s.waiting, r)
	}
}

// schedule makes the batch of a step: running requests first, then waiting ones unless one had to be preempted.
func (s *server) schedule(now int64) []*Request {
	budget, before := s.limits.MaxBatchedTokens, len(s.running)
	for i := 0; i < len(s.running); i++ {
		r := s.running[i]
		r.NumNewTokens = int(min(r.missing(), budget))
		if s.makeRoom(r) {
			budget -= int64(r.NumNewTokens)
		}
	}
	if len(s.running) == before {
		s.admitWithin(budget, now)
	}
	return slices.DeleteFunc(slices.Clone(s.running), func(r *Request) bool { return r.NumNewTokens == 0 })
}

// makeRoom preempts the latest requests until a running one's new tokens have their blocks; false if it was itself the latest.
func (s *server) makeRoom(r *Request) bool {
	for !s.blocks.grow(r) {
		last := len(s.running) - 1
		victim := s.running[last]
		s.running = s.running[:last]
		s.blocks.release(victim)
		victim.restart()
		s.waiting = slices.Insert(s.waiting, 0, victim)
		if victim == r {
			return false
		}
	}
	return true
}

// admitWithin takes waiting requests, first come first served, while places, tokens of the step and blocks are left.
func (s *server) admitWithin(budget, now int64) {
	for len(s.waiting) > 0 && budget > 0 && int64(len(s.running)) < s.limits.MaxRunning {
		r := s.waiting[0]
		if !s.blocks.admit(r, budget) {
			return
		}
		if r.outcome.Preemptions == 0 {
			r.outcome.ScheduledUS = now
		}
		budget -= int64(r.NumNewTokens)
		s.waiting, s.running = s.waiting[1:], append(s.running, r)
	}
}

// endStep counts what the step computed; it returns the requests that got a token. Those with their last one leave.
func (s *server) endStep() []*Request {
	var given []*Request
	for _, r := range s.running {
		if r.NumNewTokens > 0 && r.advance() {
			given = append(given, r)
		}
	}
	s.running = slices.DeleteFunc(s.running, func(r *Request) bool {
		if r.finished() {
			s.blocks.release(r)
		}
		return r.finished()
	})
	return given
}

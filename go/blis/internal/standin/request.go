package standin

// Request is a request with the fields that a latency model reads, and where it stands.
//
// PrefixTokens of its prompt may be found in the prefix cache; requests of one PrefixGroup (>= 0) that find equally many share
// their blocks.
type Request struct {
	ID                        string
	ArrivalUS                 int64
	InputTokens, OutputTokens int64
	PrefixTokens, PrefixGroup int64

	ProgressIndex int64 // tokens computed before the step; 0 at the first chunk, whatever the cache held
	NumNewTokens  int   // of the step, those in the cache left out
	CachedTokens  int64 // found in the cache when it was last admitted

	generated   int64 // output tokens so far
	recomputed  int64 // output tokens that the last preemption made part of what is to be prefilled
	lastTokenUS int64
	outcome     Outcome
}

// InputLen is the number of tokens to prefill: the prompt, and after a preemption also the output so far.
func (r *Request) InputLen() int { return int(r.InputTokens + r.recomputed) }

// computed tokens have their KV in the cache.
func (r *Request) computed() int64 { return max(r.ProgressIndex, r.CachedTokens) }

// missing tokens are known but not computed: the rest of what is to be prefilled, or the last token.
func (r *Request) missing() int64 { return r.InputTokens + r.generated - r.computed() }

// finished says whether it has all its tokens; one without output ends with its prefill.
func (r *Request) finished() bool { return r.generated >= max(r.OutputTokens, 1) }

// advance counts a step's tokens, and says whether it gave a token.
func (r *Request) advance() bool {
	r.ProgressIndex = r.computed() + int64(r.NumNewTokens)
	r.NumNewTokens = 0
	if r.missing() > 0 {
		return false
	}
	r.generated++
	return true
}

// restart forgets what was computed.
func (r *Request) restart() {
	r.ProgressIndex, r.NumNewTokens, r.CachedTokens, r.recomputed = 0, 0, 0, r.generated
	r.outcome.Preemptions++
}

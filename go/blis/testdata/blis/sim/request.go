package sim

type Request struct {
	ProgressIndex int64
	NumNewTokens  int
	Input         int64
}

func (r *Request) InputLen() int64 { return r.Input }

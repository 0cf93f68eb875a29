package standin

type kind int

const (
	arrival kind = iota
	queued
	stepEnd
)

// event is something that happens at a time; of those at one time the requests come in the order given.
type event struct {
	atUS    int64
	kind    kind
	order   int
	request *Request
}

// events is a heap by time.
type events []event

func (e events) Len() int { return len(e) }

func (e events) Less(i, j int) bool {
	if e[i].atUS != e[j].atUS {
		return e[i].atUS < e[j].atUS
	}
	return e[i].order < e[j].order
}

func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

func (e *events) Push(x any) { *e = append(*e, x.(event)) }

func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

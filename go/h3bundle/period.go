package h3bundle

// Tokens are a request's of one step: those computed before it, those of the step, its prompt's, and those of the prompt that
// a prefix cache held and Computed does not count yet. Cached tokens count as computed.
type Tokens struct{ Computed, Scheduled, Prompt, Cached int64 }

// PeriodUS is the period of a step of the batch, us; read gives a request's tokens.
func PeriodUS[R any](k *Kernel, batch []R, read func(R) Tokens) float64 {
	c, plain := k.Composition(), k.countsDecodes()
	var d decodes
	for _, request := range batch {
		t := read(request)
		computed := max(t.Computed, t.Cached)
		if plain && isDecode(computed, t.Scheduled, t.Prompt) {
			d = d.with(computed, t.Scheduled)
		} else {
			c.Add(computed, t.Scheduled, t.Prompt)
		}
	}
	c.add(d)
	return k.PeriodUS(&c)
}

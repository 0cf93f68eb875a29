package h3bundle

import "math"

// MaxPeriodUS bounds what PeriodUS returns: 31 years fit int64 nanoseconds and cannot overflow a clock soon.
const MaxPeriodUS = 1e15

// smallestWidth is the least range width, as in h3: a feature that was constant in training gives no trust to other values.
const smallestWidth = 0x1p-126

// span is the range that a feature had in training.
type span struct{ low, high, width float64 }

func newRange(low, high float32) span {
	return span{float64(low), float64(high), max(float64(high)-float64(low), smallestWidth)}
}

type selected struct {
	index int
	span  span
}

// Kernel predicts step times of one deployment: without allocation, without locks, the same for the same batch.
type Kernel struct {
	physics      physics
	coefficients [numTerms]float64
	features     []selected
	booster      *booster
	overheads    Overheads
	trusted      float64 // 0: the trees were not tested on this deployment, else 1
	origin       origin
}

// Prediction is a period and what it is made of: us = base x exp(trust x margin), base = sum of Parts (us by term).
type Prediction struct {
	US, BaseUS, Trust float64
	Margin            float32
	Parts             [numTerms]float64
	Features          [maxFeatures]float32
	NumFeatures       int
}

// Evaluate predicts the period of a step of the given composition, and says what it is made of.
func (k *Kernel) Evaluate(c *Composition) Prediction {
	var s step
	p := Prediction{BaseUS: k.base(c, &s), NumFeatures: len(k.features)}
	for i, term := range s.terms {
		p.Parts[i] = term * k.coefficients[i]
	}
	p.Trust = k.trust(&s, (*row)(&p.Features))
	p.Margin = k.booster.margin((*row)(&p.Features))
	p.US = corrected(p.BaseUS, p.Trust, p.Margin)
	return p
}

// base counts a batch and returns its time without a correction, us.
func (k *Kernel) base(c *Composition, s *step) float64 {
	k.physics.count(c, s)
	us := 0.0
	for i, term := range s.terms {
		us += float64(term * k.coefficients[i])
	}
	return us
}

// trust fills in the trees' row and returns how much of their margin counts.
func (k *Kernel) trust(s *step, x *row) float64 {
	var features [numFeatures]float64
	k.physics.features(s, &features)
	outside := 0.0
	for i := range k.features {
		chosen := &k.features[i]
		x[i] = float32(features[chosen.index])
		value := float64(x[i])
		if beyond := max(chosen.span.low-value, value-chosen.span.high); beyond > 0 {
			outside = max(outside, beyond/chosen.span.width)
		}
	}
	return (1 - min(1, outside)) * k.trusted
}

func corrected(baseUS, trust float64, margin float32) float64 {
	return baseUS * math.Exp(trust*float64(margin))
}

// Composition is an empty batch that counts what the deployment's layers attend to.
func (k *Kernel) Composition() Composition { return Composition{Window: int64(k.physics.window)} }

// Compose counts the requests of a batch.
func (k *Kernel) Compose(requests []Request) Composition {
	c := k.Composition()
	for _, r := range requests {
		c.Add(r.ProgressIndex, r.NewTokens, r.PromptTokens)
	}
	return c
}

// PeriodUS is the period of a step in us, finite and at least 1 even for a batch without work: Evaluate's, with the trees asked
// only where they have a say.
func (k *Kernel) PeriodUS(c *Composition) float64 {
	var s step
	us := k.base(c, &s)
	if k.trusted > 0 && len(k.booster.trees) > 0 {
		var x row
		if trust := k.trust(&s, &x); trust > 0 {
			us = corrected(us, trust, k.booster.margin(&x))
		}
	}
	if !(us >= 1) {
		return 1
	}
	return min(us, MaxPeriodUS)
}

// Tokens is what a step's time depends on of one request: tokens in the KV cache before the step, as the engine counts them,
// tokens of the step, and tokens of the prompt. Cached are tokens of a prefix cache's hit; they count as computed, whether or
// not Computed includes them.
type Tokens struct{ Computed, Scheduled, Prompt, Cached int64 }

// StepUS is the period in us of a step that computes these requests' tokens, at least 1. Who has requests of another type writes
// the same loop over them: a call through a function value for each would take longer than all the rest.
func (k *Kernel) StepUS(batch []Tokens) float64 {
	c := k.Composition()
	for i := range batch {
		t := &batch[i]
		computed := max(t.Computed, t.Cached)
		if !c.AddDecode(computed, t.Scheduled, t.Prompt) {
			c.Add(computed, t.Scheduled, t.Prompt)
		}
	}
	return k.PeriodUS(&c)
}

// Overheads are the bundle's constants of a request.
func (k *Kernel) Overheads() Overheads { return k.overheads }

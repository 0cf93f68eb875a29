package h3bundle

import (
	"math"
	"time"
)

// Req is one request of a batch: tokens of this step, tokens computed before it, length of the prompt, and how many of the
// prompt's tokens a prefix cache held. Cached tokens count as computed, whether or not Computed includes them.
type Req struct {
	Scheduled, Computed, PromptLen, CachedTokens int64
}

// Batch is what one step computes.
type Batch struct {
	Reqs []Req
}

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

// Evaluate predicts the period of a step of the given composition.
func (k *Kernel) Evaluate(c *Composition) Prediction {
	var terms [numTerms]float64
	var features [numFeatures]float64
	var p Prediction
	k.physics.evaluate(c, &terms, &features)
	for i, term := range terms {
		p.Parts[i] = term * k.coefficients[i]
		p.BaseUS += p.Parts[i]
	}
	outside := 0.0
	for i := range k.features {
		chosen := &k.features[i]
		value := float32(features[chosen.index])
		p.Features[i] = value
		x := float64(value)
		outside = max(outside, max(chosen.span.low-x, x-chosen.span.high)/chosen.span.width)
	}
	p.NumFeatures = len(k.features)
	p.Trust = (1 - min(1, outside)) * k.trusted
	p.Margin = k.booster.margin((*row)(&p.Features))
	p.US = p.BaseUS * math.Exp(p.Trust*float64(p.Margin))
	return p
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

// countsDecodes says whether decoding requests may be counted by their sums alone.
func (k *Kernel) countsDecodes() bool { return k.physics.windowShare == 0 }

// PeriodUS is the period of a step in us, finite and at least 1 even for a batch without work.
func (k *Kernel) PeriodUS(c *Composition) float64 {
	us := k.Evaluate(c).US
	if !(us >= 1) {
		return 1
	}
	return min(us, MaxPeriodUS)
}

// StepTime is the period of a step, at least 1 us.
func (k *Kernel) StepTime(batch Batch) time.Duration {
	c, plain := k.Composition(), k.countsDecodes()
	var d decodes
	for i := range batch.Reqs {
		r := &batch.Reqs[i]
		computed := max(r.Computed, r.CachedTokens)
		if plain && isDecode(computed, r.Scheduled, r.PromptLen) {
			d = d.with(computed, r.Scheduled)
		} else {
			c.Add(computed, r.Scheduled, r.PromptLen)
		}
	}
	c.add(d)
	return micros(k.PeriodUS(&c))
}

// QueueingTime is the time from a request's arrival until it can be scheduled.
func (k *Kernel) QueueingTime() time.Duration { return micros(k.overheads.QueueingUS) }

// OutputTokenProcessingTime is added to every token; 0, since the period holds all of a step's work.
func (k *Kernel) OutputTokenProcessingTime() time.Duration { return micros(k.overheads.OutputTokenUS) }

// PostDecodeFixedOverhead is the time from a request's last token to its response.
func (k *Kernel) PostDecodeFixedOverhead() time.Duration { return micros(k.overheads.PostDecodeUS) }

func micros(us float64) time.Duration { return time.Duration(math.Floor(us*1e3 + 0.5)) }

// Overheads are the bundle's constants of a request.
func (k *Kernel) Overheads() Overheads { return k.overheads }

package h3bundle

import (
	"fmt"
	"maps"
	"math"
	"strings"
)

// asKnown is how far a figure may be from the bundle's to be the same one, rounded by another hand: twice BLIS's 362 TFLOP/s of
// an L40S are 1.2 % below the data sheet's 733 in 8 bits.
const asKnown = 0.02

// mostFP8 is the most that 8-bit tensor cores gain over 16-bit ones without sparsity: a higher figure is one with sparsity.
const mostFP8 = 2

// WithFigures returns a bundle in which a name stands for an accelerator of these figures, and that name. A name that the
// bundle knows keeps its own entry where the figures are those of the bundle; where they are not (edited by whoever gives
// them) it keeps link, SMs and kernels' efficiencies and takes the figures: no longer an accelerator that was measured. A
// name that it does not know is a Card, whose link and SMs are those of the nearest measured accelerator where they are 0.
func (b *Bundle) WithFigures(card Card) (*Bundle, string, error) {
	alias := strings.ToLower(strings.TrimSpace(card.Name))
	name, known := b.manifest.hardwareName(alias)
	if card.PeakFP8FLOPs > mostFP8*card.PeakBF16FLOPs {
		card.PeakFP8FLOPs = mostFP8 * card.PeakBF16FLOPs
	}
	if !known {
		return b.withNearest(card)
	}
	own := b.manifest.Hardware[name]
	if own.hasFigures(card) {
		return b, name, nil
	}
	edited := own
	edited.take(card)
	edited.Kernels.Measured = false
	as := name + " with other figures"
	if err := edited.check(as); err != nil {
		return nil, "", err
	}
	m := *b.manifest
	m.Hardware, m.Aliases = maps.Clone(m.Hardware), maps.Clone(m.Aliases)
	m.Hardware[as], m.Aliases[strings.ToLower(as)] = edited, as
	return &Bundle{&m, b.boosters, b.digest}, as, nil
}

// withNearest adds a card whose missing link and SMs are the nearest measured accelerator's.
func (b *Bundle) withNearest(card Card) (*Bundle, string, error) {
	chip, err := b.manifest.chip(card.Kernels, Hardware{PeakBF16FLOPs: card.PeakBF16FLOPs, MemoryBandwidthBytesS: card.MemoryBandwidthBytesS})
	if err != nil {
		return nil, "", fmt.Errorf("hardware %q: %w", card.Name, err)
	}
	nearest := b.manifest.Hardware[chip]
	if card.LinkBytesS == 0 {
		card.LinkBytesS = nearest.NVLinkBandwidthBytesS
	}
	if card.StreamingMultiprocessors == 0 {
		card.StreamingMultiprocessors = nearest.StreamingMultiprocessors
	}
	added, err := b.WithCard(card)
	return added, card.Name, err
}

// hasFigures says whether a card's figures are the accelerator's; those that are 0 are not given.
func (h *Hardware) hasFigures(card Card) bool {
	for _, pair := range h.figures(&card) {
		if given := *pair.given; given != 0 && !(math.Abs(given / *pair.own - 1) <= asKnown) {
			return false
		}
	}
	return true
}

// take puts a card's figures in place of the accelerator's.
func (h *Hardware) take(card Card) {
	for _, pair := range h.figures(&card) {
		if *pair.given != 0 {
			*pair.own = *pair.given
		}
	}
}

type figure struct{ own, given *float64 }

// figures pairs what steps are computed from; memory is not.
func (h *Hardware) figures(card *Card) []figure {
	return []figure{
		{&h.PeakBF16FLOPs, &card.PeakBF16FLOPs}, {&h.PeakFP8FLOPs, &card.PeakFP8FLOPs},
		{&h.MemoryBandwidthBytesS, &card.MemoryBandwidthBytesS}, {&h.NVLinkBandwidthBytesS, &card.LinkBytesS},
		{&h.StreamingMultiprocessors, &card.StreamingMultiprocessors},
	}
}

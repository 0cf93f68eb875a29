package h3bundle

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// open, as a blank field of a struct, lets its object have keys that are not read.
type open struct{}

// object is a value that must be an object.
type object struct{ value }

// problem says what is wrong with a file, and at which place in it.
type problem struct{ place, said string }

func (p *problem) Error() string {
	if p.place == "" {
		return p.said
	}
	return strings.TrimPrefix(p.place, ".") + ": " + p.said
}

func wrong(format string, more ...any) *problem { return &problem{"", fmt.Sprintf(format, more...)} }

// under puts the place of what a problem was found in before the problem's own.
func (p *problem) under(place string) *problem {
	if p != nil {
		p.place = place + p.place
	}
	return p
}

func keyPlace(key string) string {
	if quoted := fmt.Sprintf("%.80q", key); quoted != `"`+key+`"` {
		return "." + quoted
	}
	return "." + key
}

// rule bounds what stands in a field, by its tags: within="low,high" its numbers, items="least,most" its array's or object's
// entries or its string's characters. Of the json tag's options, "optional" lets the key be absent (never null) and "whole"
// wants a float's literal to be a whole number's.
type rule struct {
	low, high   float64
	least, most int
	bounded     bool
	sized       bool
	whole       bool
}

type fieldPlan struct {
	key      string
	index    int
	optional bool
	rule     rule
}

type plan struct {
	fields []fieldPlan
	open   bool
}

var plans sync.Map // reflect.Type → *plan

func planOf(t reflect.Type) *plan {
	if known, ok := plans.Load(t); ok {
		return known.(*plan)
	}
	p := &plan{}
	for i := range t.NumField() {
		field := t.Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if p.open = p.open || field.Type == reflect.TypeFor[open](); key == "" {
			continue
		}
		planned := fieldPlan{key: key, index: i, optional: options == "optional"}
		planned.rule = rule{low: math.Inf(-1), high: math.Inf(1), most: math.MaxInt, whole: options == "whole"}
		if within := field.Tag.Get("within"); within != "" {
			planned.rule.low, planned.rule.high = pair(within)
			planned.rule.bounded = true
		}
		if items := field.Tag.Get("items"); items != "" {
			least, most := pair(items)
			planned.rule.least, planned.rule.most, planned.rule.sized = int(least), int(most), true
		}
		p.fields = append(p.fields, planned)
	}
	plans.Store(t, p)
	return p
}

// pair reads a tag's two numbers; a tag is written here, so that anything else is a mistake in this package.
func pair(tag string) (float64, float64) {
	one, other, _ := strings.Cut(tag, ",")
	low, err := strconv.ParseFloat(one, 64)
	high, otherErr := strconv.ParseFloat(other, 64)
	if err != nil || otherErr != nil {
		panic("h3bundle: tag " + tag)
	}
	return low, high
}

// bind reads JSON into a struct: every key a field's, to the letter, every field there unless it is optional, nothing null but
// what a pointer holds, numbers of the field's kind and within its bounds.
func bind(data []byte, target any) error {
	v, err := parse(data)
	if err != nil {
		return err
	}
	return v.bind(target)
}

// bind does so for a value that was parsed.
func (v *value) bind(target any) error {
	if p := v.into(reflect.ValueOf(target).Elem(), &rule{}); p != nil {
		return p
	}
	return nil
}

func (v *value) into(target reflect.Value, r *rule) *problem {
	switch into := target.Addr().Interface().(type) {
	case *value:
		*into = *v
		return nil
	case *object:
		into.value = *v
		return v.expect('{')
	}
	switch target.Kind() {
	case reflect.Pointer:
		if v.kind == 'n' {
			return nil
		}
		target.Set(reflect.New(target.Type().Elem()))
		return v.into(target.Elem(), r)
	case reflect.Struct:
		return v.intoStruct(target)
	case reflect.Map:
		return v.intoMap(target, r)
	case reflect.Slice, reflect.Array:
		return v.intoList(target, r)
	case reflect.String:
		target.SetString(v.text)
		return first(v.expect('"'), r.checkSize(utf8.RuneCountInString(v.text), "characters"))
	case reflect.Bool:
		target.SetBool(v.text == "true")
		return v.expect('b')
	}
	return v.intoNumber(target, r)
}

func first(problems ...*problem) *problem {
	for _, p := range problems {
		if p != nil {
			return p
		}
	}
	return nil
}

func (v *value) expect(kind byte) *problem {
	if v.kind != kind {
		return wrong("holds %s; expected %s", kinds[v.kind], kinds[kind])
	}
	return nil
}

func (r *rule) checkSize(size int, of string) *problem {
	if r.sized && (size < r.least || size > r.most) {
		return wrong("%d %s; expected %d to %d", size, of, r.least, r.most)
	}
	return nil
}

func (r *rule) check(number float64) *problem {
	if r.bounded && !(number >= r.low && number <= r.high) {
		return wrong("%v; expected %v to %v", number, r.low, r.high)
	}
	return nil
}

func (v *value) intoNumber(target reflect.Value, r *rule) *problem {
	if p := v.expect('0'); p != nil {
		return p
	}
	whole := !strings.ContainsAny(v.text, ".eE")
	switch target.Kind() {
	case reflect.Float32, reflect.Float64:
		if r.whole && !whole {
			return wrong("%.40s; expected a whole number", v.text)
		}
		if target.Kind() == reflect.Float32 && math.Abs(v.number) > math.MaxFloat32 {
			return wrong("%.40s; expected a finite 32-bit number", v.text)
		}
		target.SetFloat(v.number)
	default:
		number, err := strconv.ParseInt(v.text, 10, target.Type().Bits())
		if err != nil || !whole {
			return wrong("%.40s; expected a whole number of %d bits", v.text, target.Type().Bits())
		}
		target.SetInt(number)
	}
	return r.check(v.number)
}

func (v *value) intoList(target reflect.Value, r *rule) *problem {
	if p := v.expect('['); p != nil {
		return p
	}
	if target.Kind() == reflect.Slice {
		if p := r.checkSize(len(v.items), "items"); p != nil {
			return p
		}
		target.Set(reflect.MakeSlice(target.Type(), len(v.items), len(v.items)))
	} else if len(v.items) != target.Len() {
		return wrong("%d items; expected %d", len(v.items), target.Len())
	}
	inner := *r
	inner.sized = false
	for i := range v.items {
		if p := v.items[i].into(target.Index(i), &inner); p != nil {
			return p.under(fmt.Sprintf("[%d]", i))
		}
	}
	return nil
}

func (v *value) intoMap(target reflect.Value, r *rule) *problem {
	if p := first(v.expect('{'), r.checkSize(len(v.items), "entries")); p != nil {
		return p
	}
	target.Set(reflect.MakeMap(target.Type()))
	inner := *r
	inner.sized = false
	for i, key := range v.keys {
		item := reflect.New(target.Type().Elem()).Elem()
		if p := v.items[i].into(item, &inner); p != nil {
			return p.under(keyPlace(key))
		}
		target.SetMapIndex(reflect.ValueOf(key), item)
	}
	return nil
}

func (v *value) intoStruct(target reflect.Value) *problem {
	if p := v.expect('{'); p != nil {
		return p
	}
	planned, found := planOf(target.Type()), 0
	for i := range planned.fields {
		field := &planned.fields[i]
		item, ok := v.get(field.key)
		if !ok {
			if !field.optional {
				return wrong("key %q is missing", field.key)
			}
			continue
		}
		found++
		if p := item.into(target.Field(field.index), &field.rule); p != nil {
			return p.under("." + field.key)
		}
	}
	if found < len(v.keys) && !planned.open {
		return wrong("unknown key %.80q", planned.unknown(v.keys))
	}
	return nil
}

func (p *plan) unknown(keys []string) string {
	known := map[string]bool{}
	for _, field := range p.fields {
		known[field.key] = true
	}
	for _, key := range keys {
		if !known[key] {
			return key
		}
	}
	return ""
}

// withinBounds checks the numbers of a struct that was built otherwise against its fields' bounds.
func withinBounds(target any) error {
	if p := boundsOf(reflect.ValueOf(target).Elem()); p != nil {
		return p
	}
	return nil
}

func boundsOf(target reflect.Value) *problem {
	for _, field := range planOf(target.Type()).fields {
		var p *problem
		switch value := target.Field(field.index); value.Kind() {
		case reflect.Struct:
			p = boundsOf(value)
		case reflect.Float64:
			p = field.rule.check(value.Float())
		}
		if p != nil {
			return p.under("." + field.key)
		}
	}
	return nil
}

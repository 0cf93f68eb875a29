package h3bundle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxWholeDigits bounds the literal of a whole number, its sign included: one such number fits a float64 and nearly an int64.
const maxWholeDigits = 19

// value is a JSON value as it stood in a file.
type value struct {
	kind   byte     // one of: n(ull) b(ool) 0 (number) " [ {
	text   string   // a string's characters, a number's literal, "true" or "false"
	number float64  // of a number
	items  []value  // of an array; an object's values
	keys   []string // an object's, as items
	raw    []byte
}

// textual is a string's text; "" for anything else.
func (v value) textual() string {
	if v.kind == '"' {
		return v.text
	}
	return ""
}

// kinds are the words for a value's kind.
var kinds = map[byte]string{'n': "null", 'b': "boolean", '0': "number", '"': "string", '[': "array", '{': "object"}

// get is the value of an object's key.
func (v *value) get(key string) (value, bool) {
	if at := slices.Index(v.keys, key); at >= 0 {
		return v.items[at], true
	}
	return value{}, false
}

// parse reads exactly one JSON value as h3's json_file.py does: UTF-8 without byte-order mark or lone surrogates, no key twice,
// nothing nested deeper than maxDepth, finite numbers, whole ones of at most maxWholeDigits characters.
func parse(data []byte) (value, error) {
	if len(data) > MaxFileBytes {
		return value{}, fmt.Errorf("more than %d bytes", MaxFileBytes)
	}
	if !utf8.Valid(data) {
		return value{}, fmt.Errorf("not UTF-8")
	}
	r := reader{data: data}
	v, err := r.value()
	if err == nil && r.next() != 0 {
		err = r.wrong("more than one value")
	}
	return v, err
}

type reader struct {
	data      []byte
	at, depth int
}

func (r *reader) wrong(said string) error { return fmt.Errorf("not JSON at byte %d: %s", r.at, said) }

// next is the next byte that is no space; 0 at the end (a byte 0 stands nowhere in JSON).
func (r *reader) next() byte {
	for ; r.at < len(r.data); r.at++ {
		if c := r.data[r.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return max(c, 1)
		}
	}
	return 0
}

func (r *reader) value() (v value, err error) {
	c := r.next()
	start := r.at
	switch {
	case c == '{' || c == '[':
		if r.depth++; r.depth > maxDepth {
			return v, fmt.Errorf("nested deeper than %d", maxDepth)
		}
		if c == '{' {
			v, err = r.object()
		} else {
			v, err = r.array()
		}
		r.depth--
	case c == '"':
		v.kind = '"'
		v.text, err = r.text()
	case c == '-' || (c >= '0' && c <= '9'):
		v, err = r.number()
	default:
		v, err = r.word()
	}
	v.raw = r.data[start:r.at]
	return v, err
}

func (r *reader) word() (value, error) {
	for _, word := range []string{"null", "true", "false"} {
		if strings.HasPrefix(string(r.data[r.at:min(r.at+5, len(r.data))]), word) {
			r.at += len(word)
			if word == "null" {
				return value{kind: 'n'}, nil
			}
			return value{kind: 'b', text: word}, nil
		}
	}
	return value{}, r.wrong("expected a value")
}

func (r *reader) array() (value, error) {
	v := value{kind: '['}
	r.at++
	if r.next() == ']' {
		r.at++
		return v, nil
	}
	for {
		item, err := r.value()
		if err != nil {
			return v, err
		}
		v.items = append(v.items, item)
		if end, err := r.separator(']'); end || err != nil {
			return v, err
		}
	}
}

func (r *reader) object() (value, error) {
	v, seen := value{kind: '{'}, map[string]bool{}
	r.at++
	if r.next() == '}' {
		r.at++
		return v, nil
	}
	for {
		if r.next() != '"' {
			return v, r.wrong("expected a key")
		}
		key, err := r.text()
		if err != nil {
			return v, err
		}
		if seen[key] {
			return v, fmt.Errorf("key %.80q stands there twice", key)
		}
		seen[key] = true
		if r.next() != ':' {
			return v, r.wrong("expected a colon")
		}
		r.at++
		item, err := r.value()
		if err != nil {
			return v, err
		}
		v.keys, v.items = append(v.keys, key), append(v.items, item)
		if end, err := r.separator('}'); end || err != nil {
			return v, err
		}
	}
}

// separator takes a comma, or the closing bracket: the end.
func (r *reader) separator(closing byte) (end bool, err error) {
	c := r.next()
	if c != ',' && c != closing {
		return false, r.wrong(fmt.Sprintf("expected a comma or %c", closing))
	}
	r.at++
	return c == closing, nil
}

func (r *reader) digits() bool {
	start := r.at
	for r.at < len(r.data) && r.data[r.at] >= '0' && r.data[r.at] <= '9' {
		r.at++
	}
	return r.at > start
}

// take moves past one of the bytes, if one of them is next.
func (r *reader) take(bytes string) bool {
	found := r.at < len(r.data) && strings.IndexByte(bytes, r.data[r.at]) >= 0
	if found {
		r.at++
	}
	return found
}

func (r *reader) number() (value, error) {
	start := r.at
	r.take("-")
	fine := r.take("0") || r.digits()
	whole := true
	if r.take(".") {
		fine, whole = fine && r.digits(), false
	}
	if r.take("eE") {
		r.take("+-")
		fine, whole = r.digits() && fine, false
	}
	literal := string(r.data[start:r.at])
	if !fine {
		return value{}, r.wrong("expected a number")
	}
	number, err := strconv.ParseFloat(literal, 64)
	if err != nil || (whole && len(literal) > maxWholeDigits) {
		return value{}, fmt.Errorf("the number %.40s; expected finite ones, whole ones of at most %d characters", literal, maxWholeDigits)
	}
	return value{kind: '0', text: literal, number: number}, nil
}

// text reads a string.
func (r *reader) text() (string, error) {
	r.at++
	start := r.at
	var built []byte // once there was an escape
	for r.at < len(r.data) {
		switch c := r.data[r.at]; {
		case c == '"':
			said := string(append(built, r.data[start:r.at]...))
			r.at++
			return said, nil
		case c < ' ':
			return "", r.wrong("a control character in a string")
		case c == '\\':
			built = append(built, r.data[start:r.at]...)
			escaped, err := r.escape()
			if err != nil {
				return "", err
			}
			built = utf8.AppendRune(built, escaped)
			start = r.at
		default:
			r.at++
		}
	}
	return "", r.wrong("a string without end")
}

var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (r *reader) escape() (rune, error) {
	r.at++
	if r.at < len(r.data) {
		if plain, ok := escapes[r.data[r.at]]; ok {
			r.at++
			return plain, nil
		}
	}
	high, ok := r.unit()
	if !ok {
		return 0, r.wrong("an escape that is none")
	}
	if high < 0xD800 || high > 0xDFFF {
		return high, nil
	}
	if high < 0xDC00 && r.take("\\") {
		if low, ok := r.unit(); ok && low >= 0xDC00 && low <= 0xDFFF {
			return 0x10000 + (high-0xD800)<<10 + (low - 0xDC00), nil
		}
	}
	return 0, r.wrong("half a surrogate pair")
}

// unit reads u and four hexadecimal digits.
func (r *reader) unit() (rune, bool) {
	if !r.take("u") || r.at+4 > len(r.data) {
		return 0, false
	}
	code := rune(0)
	for _, c := range r.data[r.at : r.at+4] {
		digit := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit < 0 || (c < 'A' && c > '9') || c < '0' {
			return 0, false
		}
		code = code<<4 + rune(digit)
	}
	r.at += 4
	return code, true
}

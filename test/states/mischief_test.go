package states_test

import (
	"math/rand/v2"
	"slices"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// anyMessage returns a message of any kind that a server can send, and its type.
func anyMessage(dice *rand.Rand) (frame []byte) {
	const all = "123nscdtTDCIENASZGHWVvKR"
	switch typ := all[dice.IntN(len(all))]; typ {
	case 'd':
		return pgfake.Frame(typ, "stray\n")
	case 't':
		return pgfake.Frame(typ, []string{"\x00\x00", "\x00\x01\x00\x00\x00\x19", "\x00\x02\x00\x00\x00\x19\x00\x00\x00\x17"}[dice.IntN(3)])
	case 'T':
		return pgfake.Columns(slices.Repeat([]string{"stray"}, dice.IntN(4))...)
	case 'D':
		return pgfake.Row(slices.Repeat([]string{"stray"}, 1+dice.IntN(3))...)
	case 'C':
		tags := []string{"SELECT 1", "INSERT 0 1", "LISTEN", "UNLISTEN", "BEGIN", "COMMIT", "ROLLBACK", "COPY 1", "DISCARD ALL", "DEALLOCATE", "SET"}
		return pgfake.Complete(tags[dice.IntN(len(tags))])
	case 'E':
		return strayError(dice)
	case 'N', 'A':
		return []byte{typ}
	case 'S':
		return parameter(dice)
	case 'Z':
		return pgfake.Ready("ITE"[dice.IntN(3)])
	case 'G':
		return pgfake.CopyIn(dice.IntN(3))
	case 'H', 'W':
		return pgfake.Frame(typ, "\x00\x00\x01\x00\x00")
	case 'V':
		return pgfake.Frame(typ, []string{"\xff\xff\xff\xff", "\x00\x00\x00\x01x"}[dice.IntN(2)])
	case 'v':
		return pgfake.Frame(typ, "\x00\x00\x00\x00\x00\x00\x00\x00")
	case 'K':
		return pgfake.Frame(typ, "\x00\x00\x00\x01\x00\x00\x00\x02")
	case 'R':
		return pgfake.Frame(typ, []string{"\x00\x00\x00\x00", "\x00\x00\x00\x03", "\x00\x00\x00\x05salt"}[dice.IntN(3)])
	default:
		return pgfake.Frame(typ, "")
	}
}

func strayError(dice *rand.Rand) []byte {
	codes := []string{"XX000", "22012", "26000", "0A000", "40001", "57014"}
	return pgfake.Error("ERROR", codes[dice.IntN(len(codes))], "a stray error")
}

func fatal(dice *rand.Rand) []byte {
	codes := []string{"57P01", "57P02", "57P05", "25P03", "08P01", "XX000"}
	return pgfake.Error("FATAL", codes[dice.IntN(len(codes))], "a last word")
}

// makeMischief has something go wrong with an answer.
func makeMischief(o *output, dice *rand.Rand) {
	n := 1
	if dice.IntN(4) == 0 {
		n += dice.IntN(3)
	}
	o.frames = slices.Clone(o.frames)
	for range n {
		mischief := mischiefs[dice.IntN(len(mischiefs))]
		if mischief.make(o, dice, dice.IntN(len(o.frames)+1)) {
			o.odd += " " + mischief.name
		}
		if o.end != goesOn || len(o.frames) == 0 {
			break
		}
	}
}

// Mischiefs happen at some place of an answer. They return false if they do nothing.
var mischiefs = []struct {
	name string
	make func(o *output, dice *rand.Rand, at int) bool
}{
	{"stray", insertStray},
	{"stray", insertStray},
	{"stray", insertStray},
	{"error", func(o *output, dice *rand.Rand, at int) bool {
		o.frames = slices.Insert(o.frames, at, strayError(dice))
		return true
	}},
	{"twice", func(o *output, dice *rand.Rand, at int) bool {
		if at == len(o.frames) {
			return false
		}
		o.frames = slices.Insert(o.frames, at, o.frames[at])
		return true
	}},
	{"missing", func(o *output, dice *rand.Rand, at int) bool {
		if at == len(o.frames) {
			return false
		}
		o.frames = slices.Delete(o.frames, at, at+1)
		return true
	}},
	{"swapped", func(o *output, dice *rand.Rand, at int) bool {
		if at+1 >= len(o.frames) {
			return false
		}
		o.frames[at], o.frames[at+1] = o.frames[at+1], o.frames[at]
		return true
	}},
	{"one more ready", func(o *output, dice *rand.Rand, at int) bool {
		o.frames = append(o.frames, pgfake.Ready('I'))
		return true
	}},
	{"fatal", func(o *output, dice *rand.Rand, at int) bool {
		o.frames = slices.Insert(o.frames, at, fatal(dice))
		if at++; dice.IntN(3) == 0 {
			o.frames = slices.Insert(o.frames, at, fatal(dice))
			at++
		}
		if o.end = []ending{goesOn, closes, closes, resets}[dice.IntN(4)]; o.end != goesOn {
			o.frames = o.frames[:at]
		}
		return true
	}},
	{"cut", func(o *output, dice *rand.Rand, at int) bool {
		o.end, o.frames = []ending{closes, resets, fallsSilent}[dice.IntN(3)], o.frames[:at]
		if at > 0 {
			o.cut = dice.IntN(len(o.frames[at-1]) + 1)
		}
		return true
	}},
	{"announced", func(o *output, dice *rand.Rand, at int) bool {
		o.end = []ending{closes, resets, fallsSilent}[dice.IntN(3)]
		o.frames = append(o.frames[:at], announcement(dice))
		return true
	}},
}

// announcement returns the beginning of a message whose rest does not come.
func announcement(dice *rand.Rand) []byte {
	sizes := []uint32{1 << 10, 60 << 10, 1 << 20, 64 << 20, 1<<30 - 1, 1 << 30}
	return pgfake.RawFrame("DdVTtEN"[dice.IntN(7)], sizes[dice.IntN(len(sizes))], "SERROR\x00")
}

func insertStray(o *output, dice *rand.Rand, at int) bool {
	o.frames = slices.Insert(o.frames, at, anyMessage(dice))
	return true
}

// idleMischief is what goes wrong while nothing was asked.
func idleMischief(dice *rand.Rand) (o output) {
	switch o.odd = "idle"; dice.IntN(4) {
	case 0, 1:
		o.frames = [][]byte{anyMessage(dice)}
	case 2:
		o.frames = [][]byte{fatal(dice)}
		if dice.IntN(2) == 0 {
			o.frames = append(o.frames, fatal(dice))
		}
		o.end = closes
	default:
		o.end = []ending{closes, resets}[dice.IntN(2)]
	}
	return o
}

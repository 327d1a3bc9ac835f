package wire

import (
	"math/bits"
	"sync/atomic"
)

// A step is what the server owes for one message of the client.
type step uint64

const (
	noStep         step = iota
	stepQuery           // any number of results, and ReadyForQuery
	stepEmptyQuery      // the same; some servers send ReadyForQuery alone
	stepParse           // ParseComplete
	stepStatement       // ParameterDescription, and RowDescription or NoData
	stepPortal          // RowDescription or NoData
	stepBind            // BindComplete
	stepExecute         // rows, and CommandComplete, or a COPY
	stepClose           // CloseComplete
	stepCall            // FunctionCallResponse
	stepSync            // ReadyForQuery
)

// steps is a queue of up to maxSteps steps, the first one in the lowest bits. Whoever
// writes adds, and whoever reads takes away.
type steps struct{ queue atomic.Uint64 }

const (
	stepBits = 4
	stepMask = 1<<stepBits - 1
	maxSteps = 64 / stepBits // lib/pq never has more than six
)

// add appends the steps in more, which has the form of a queue. It reports false if there
// is no room.
func (s *steps) add(more uint64) bool {
	for {
		old := s.queue.Load()
		n := length(old)
		if n+length(more) > maxSteps {
			return false
		}
		if s.queue.CompareAndSwap(old, old|more<<(n*stepBits)) {
			return true
		}
	}
}

func length(queue uint64) int { return (bits.Len64(queue) + stepBits - 1) / stepBits }

func (s *steps) first() step { return step(s.queue.Load() & stepMask) }

func (s *steps) pop() {
	for {
		old := s.queue.Load()
		if s.queue.CompareAndSwap(old, old>>stepBits) {
			return
		}
	}
}

// A position says which messages may come next within a step.
type position uint8

const (
	atStart      position = iota // nothing has come for the step
	atResult                     // of a query: one or more have come
	atParameters                 // after a ParameterDescription
	atRows                       // after a RowDescription, or a row
	atCopyIn                     // after a CopyInResponse
	atCopyOut                    // after a CopyOutResponse
	atCopied                     // after a CopyDone
	atError                      // after an ErrorResponse: up to the ReadyForQuery
)

// An answer tells whether a message has its place in the answer under way. Messages that
// may come at any time, and those of the start-up, are not its concern.
type answer struct {
	steps   *steps
	at      position
	columns int // of the rows that may come
}

// unknownColumns stands for the number of columns of a statement that was described
// earlier: all its rows have as many as the first one.
const unknownColumns = -1

// place reports whether a message of the given type may come now, and notes that it has.
func (a *answer) place(typ byte) bool {
	step := a.steps.first()
	switch {
	case step == noStep:
		return false
	case typ == 'E':
		a.at = atError
		return true
	case a.at == atError:
		return typ == 'Z' && a.skip()
	}
	switch step {
	case stepQuery, stepEmptyQuery:
		return a.result(typ, step)
	case stepExecute:
		return a.execution(typ)
	case stepParse:
		return typ == '1' && a.done()
	case stepBind:
		return typ == '2' && a.done()
	case stepClose:
		return typ == '3' && a.done()
	case stepCall:
		return typ == 'V' && a.done()
	case stepSync:
		return typ == 'Z' && a.done()
	case stepStatement:
		if a.at == atStart {
			return typ == 't' && a.move(atParameters)
		}
	}
	return (typ == 'T' || typ == 'n') && a.done() // of a statement or a portal
}

// result is place for a simple query.
func (a *answer) result(typ byte, step step) bool {
	switch a.at {
	case atRows:
		return typ == 'D' || typ == 'C' && a.move(atResult)
	case atStart, atResult:
		switch typ {
		case 'T':
			return a.move(atRows)
		case 'C', 'I':
			return a.move(atResult)
		case 'Z':
			return (a.at == atResult || step == stepEmptyQuery) && a.done()
		}
	}
	return a.copying(typ, atResult)
}

// execution is place for Execute.
func (a *answer) execution(typ byte) bool {
	switch {
	case a.at > atRows:
		return a.copying(typ, atStart) && (typ != 'C' || a.done())
	case typ == 'D':
		return a.move(atRows)
	case typ == 'C', typ == 'I' && a.at == atStart:
		return a.done()
	}
	return a.at == atStart && a.copying(typ, atStart)
}

// copying is place for COPY, which ends at then.
func (a *answer) copying(typ byte, then position) bool {
	switch {
	case a.at < atCopyIn && typ == 'G':
		return a.move(atCopyIn)
	case a.at < atCopyIn && typ == 'H':
		return a.move(atCopyOut)
	case a.at == atCopyOut && typ == 'd':
		return true
	case a.at == atCopyOut && typ == 'c':
		return a.move(atCopied)
	case typ == 'C' && (a.at == atCopyIn || a.at == atCopied):
		return a.move(then)
	}
	return false
}

func (a *answer) move(to position) bool {
	a.at = to
	return true
}

// done goes on to the next step.
func (a *answer) done() bool {
	a.steps.pop()
	a.at = atStart
	return true
}

// skip ends an answer with an error at its ReadyForQuery: the server has answered nothing
// that came before it.
func (a *answer) skip() bool {
	for {
		step := a.steps.first()
		a.done()
		switch step {
		case stepQuery, stepEmptyQuery, stepSync, noStep:
			return step != noStep
		}
	}
}

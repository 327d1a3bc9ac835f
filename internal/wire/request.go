package wire

import "bytes"

// asked returns the steps that answer the frontend messages in p, in the form of a queue,
// and how many ReadyForQuery messages are among them. lib/pq writes whole messages.
func asked(p []byte) (queue uint64, answers int32) {
	n := 0
	add := func(s step) {
		if n < maxSteps {
			queue |= uint64(s) << (n * stepBits)
		}
		n++
	}
	for len(p) >= headerLen {
		size := uint64(frameSize(p))
		body := p[headerLen:min(max(size, headerLen), uint64(len(p)))]
		switch p[0] {
		case 'Q':
			if answers++; isEmpty(body) {
				add(stepEmptyQuery)
			} else {
				add(stepQuery)
			}
		case 'S':
			answers++
			add(stepSync)
		case 'F':
			answers++
			add(stepCall)
			add(stepSync)
		case 'P':
			add(stepParse)
		case 'B':
			add(stepBind)
		case 'E':
			add(stepExecute)
		case 'C':
			add(stepClose)
		case 'D':
			if len(body) > 0 && body[0] == 'P' {
				add(stepPortal)
			} else {
				add(stepStatement)
			}
		}
		if size >= uint64(len(p)) {
			break
		}
		p = p[size:]
	}
	return queue, answers
}

// isEmpty reports whether the text of a simple query has no statement.
func isEmpty(text []byte) bool { return len(bytes.Trim(text, "; \t\r\n\f\v\x00")) == 0 }

// answers returns how many ReadyForQuery messages the server will send for the frontend
// messages in p: one for each Query, Sync and FunctionCall.
func answers(p []byte) int32 {
	_, n := asked(p)
	return n
}

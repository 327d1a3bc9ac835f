package wire

// answers returns how many ReadyForQuery messages the server will send for the
// frontend messages in p: one for each Query, Sync and FunctionCall. lib/pq
// writes whole messages.
func answers(p []byte) int32 {
	var n int32
	for len(p) >= headerLen {
		switch p[0] {
		case 'Q', 'S', 'F':
			n++
		}
		size := frameSize(p)
		if uint64(size) >= uint64(len(p)) {
			break
		}
		p = p[size:]
	}
	return n
}

// Package wire is the only code of pgnotify that touches protocol bytes. A [Conn] is
// the net.Conn that lib/pq speaks over. It reads the server's messages frame by frame,
// takes out what lib/pq must not see (notifications and notices), records what the
// layers above want to know (transaction status, parameters, the server's last words,
// how much of a request has been sent) and forwards the rest.
//
// The work is split so that each part can be read alone:
//
//	frame.go        the kinds of messages and the bounds of their lengths
//	scanner.go      a pure state machine from bytes to frames; no socket
//	window.go       the scanner's buffer
//	clip.go         shortens an ErrorResponse or NoticeResponse as it streams by
//	response.go     the fields of ErrorResponse and NoticeResponse
//	notification.go NotificationResponse
//	notes.go        what the scanner writes down for the layers above
//	request.go      the steps that will answer a request
//	answer.go       which message may come next in an answer
//	startup.go      which message may come next during the start-up
//	row.go          rows and descriptions must add up
//	copy.go         refuses what lib/pq cannot copy
//	drop.go         drops what nobody wants of an answer
//	large.go        holds back the beginning of a large message
//	statement.go    names of prepared statements; closes them without a round trip
//	conn.go         the socket, read by lib/pq's goroutine (a passive session)
//	active.go       the socket, read by a goroutine of its own (an active session)
//	inbox.go        hands bytes from that goroutine to lib/pq's
//
// The messages are those of
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
package wire

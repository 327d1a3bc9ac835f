package pgfake

import (
	"encoding/binary"
	"strings"
)

// Frame returns a message of the given type.
func Frame(typ byte, body string) []byte { return RawFrame(typ, uint32(len(body)+4), body) }

// RawFrame returns a message whose length word is what the caller says, true or not.
func RawFrame(typ byte, length uint32, body string) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{typ}, length)
	return append(frame, body...)
}

// Ready returns a ReadyForQuery with a transaction status: 'I', 'T' or 'E'.
func Ready(status byte) []byte { return Frame('Z', string(status)) }

// Complete returns a CommandComplete.
func Complete(tag string) []byte { return Frame('C', tag+"\x00") }

// Parameter returns a ParameterStatus.
func Parameter(name, value string) []byte { return Frame('S', name+"\x00"+value+"\x00") }

// Notification returns a NotificationResponse.
func Notification(pid uint32, channel, payload string) []byte {
	return Frame('A', word(pid)+channel+"\x00"+payload+"\x00")
}

// Error returns an ErrorResponse.
func Error(severity, code, message string) []byte { return report('E', severity, code, message) }

// Notice returns a NoticeResponse.
func Notice(severity, code, message string) []byte { return report('N', severity, code, message) }

func report(typ byte, severity, code, message string) []byte {
	return Frame(typ, "S"+severity+"\x00V"+severity+"\x00C"+code+"\x00M"+message+"\x00\x00")
}

// Columns returns a RowDescription of columns of the type text.
func Columns(names ...string) []byte {
	const oidText = 25
	var b strings.Builder
	b.WriteString(half(uint16(len(names))))
	for _, name := range names {
		b.WriteString(column(name, oidText))
	}
	return Frame('T', b.String())
}

// ColumnsOf returns a RowDescription of nameless columns of types, given by their OIDs.
func ColumnsOf(types ...uint32) []byte {
	var b strings.Builder
	b.WriteString(half(uint16(len(types))))
	for _, oid := range types {
		b.WriteString(column("", oid))
	}
	return Frame('T', b.String())
}

func column(name string, oid uint32) string {
	const table, column, size, modifier, format = 0, 0, 0xffff, 0xffffffff, 0
	return name + "\x00" + word(table) + half(column) + word(oid) + half(size) + word(modifier) + half(format)
}

// Row returns a DataRow.
func Row(values ...string) []byte {
	var b strings.Builder
	b.WriteString(half(uint16(len(values))))
	for _, v := range values {
		b.WriteString(word(uint32(len(v))) + v)
	}
	return Frame('D', b.String())
}

// CopyIn returns a CopyInResponse for text with a number of columns.
func CopyIn(columns int) []byte {
	return Frame('G', "\x00"+half(uint16(columns))+strings.Repeat("\x00\x00", columns))
}

func word(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

func half(n uint16) string { return string(binary.BigEndian.AppendUint16(nil, n)) }

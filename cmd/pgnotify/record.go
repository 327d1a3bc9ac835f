package main

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/pgnotify/pgnotify"
)

// Records are what -json prints, one to a line. The help documents their names, which
// programs depend on.

type head struct {
	Kind string    `json:"kind"`
	Time time.Time `json:"time"`
}

func newHead(kind string, t time.Time) head { return head{kind, t.UTC()} }

type notificationRecord struct {
	head
	Channel string `json:"channel"`
	Payload string `json:"payload"`
	PID     uint32 `json:"pid"`
}

type listeningRecord struct {
	head
	Channels []string `json:"channels"`
}

type gapRecord struct {
	head
	Cause   string    `json:"cause"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Dropped uint64    `json:"dropped"`
	Error   string    `json:"error,omitempty"`
}

// gapCauses are names for programs.
var gapCauses = map[pgnotify.GapCause]string{
	pgnotify.GapOverflow:   "overflow",
	pgnotify.GapReconnect:  "reconnect",
	pgnotify.GapListenLost: "listen lost",
}

// eventRecord is what has happened to the session.
type eventRecord struct {
	head
	Host    string   `json:"host,omitempty"`
	PID     uint32   `json:"pid,omitempty"`
	Attempt int      `json:"attempt,omitempty"`
	Delay   *float64 `json:"delay_ms,omitempty"`
	Error   string   `json:"error,omitempty"`
}

func newEventRecord(e pgnotify.ListenerEvent) eventRecord {
	r := eventRecord{head: newHead(e.Kind.String(), e.Time), Host: e.Host, PID: e.PID, Attempt: e.Attempt, Error: errorText(e.Err)}
	if e.Kind == pgnotify.ListenerReconnecting || e.Kind == pgnotify.ListenerProbeFailed {
		delay := milliseconds(e.Delay)
		r.Delay = &delay
	}
	return r
}

type healthRecord struct {
	head
	Host           string    `json:"host"`
	PID            uint32    `json:"pid"`
	ConnectedSince time.Time `json:"connected_since"`
	LastHeard      time.Time `json:"last_heard"`
	RoundTrip      float64   `json:"round_trip_ms"`
	InRecovery     bool      `json:"in_recovery"`
	QueueUsage     float64   `json:"queue_usage"`
	Reconnects     uint64    `json:"reconnects"`
}

type unhealthyRecord struct {
	head
	Error string `json:"error"`
}

// encode writes a record and a newline.
func encode(w io.Writer, record any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(record)
}

// eventText is what has happened to the session, for people.
func eventText(e pgnotify.ListenerEvent) string {
	switch e.Kind {
	case pgnotify.ListenerConnected:
		return "connected to " + sessionText(e.Host, e.PID)
	case pgnotify.ListenerDisconnected:
		var lost *pgnotify.DisconnectError
		if errors.As(e.Err, &lost) {
			return errorText(e.Err)
		}
		return "session given up: " + errorText(e.Err)
	case pgnotify.ListenerProbeFailed:
		return "not known whether notifications arrive: " + errorText(e.Err)
	}
	text := "reconnecting"
	if e.Delay > 0 {
		text += " in " + e.Delay.Round(time.Millisecond).String()
	}
	if e.Err != nil {
		text = "no session (" + text + "): " + errorText(e.Err)
	}
	return text
}

// gapText tells of a gap, for people. What lies behind it has been told before.
func gapText(g pgnotify.Gap) string {
	g.Err = nil
	return "GAP: notifications may be missing from " + g.From.Local().Format(timeFormat) +
		" to " + g.To.Local().Format(timeFormat) + ": " + g.String()
}

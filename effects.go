package pgnotify

import "strconv"

// effects are what a query does to kept statements, as far as its text shows. What is not
// known to be harmless is not.
type effects struct {
	forgets bool   // statements of the session may mean something else afterwards
	tells   bool   // those of other sessions too, once it is committed
	commits bool   // it may commit a transaction, and begin another one
	clock   bool   // a literal may stand for the present time, so its own statement is not kept
	setting uint16 // the number of the argument that names a setting for set_config; 0: none
}

// An effectsReader reads the effects of a query token by token.
type effectsReader struct {
	lexer
	effects

	// Of the statement under way:
	depth   int  // of parentheses
	selects bool // it has a SELECT outside parentheses
	last    byte // of the token before this one if it is a tokenOther; 0 at the beginning
	into    bool // the token before this one is the INSERT or MERGE of INSERT INTO
}

// readEffects returns the effects of a query; plain is the lexer's.
func readEffects(query string, plain bool) effects {
	r := effectsReader{lexer: lexer{text: query, plain: plain}}
	for r.kind != tokenEnd && r.kind != tokenUnclear {
		r.readStatement()
	}
	if r.kind == tokenUnclear {
		r.forgets, r.tells = true, true
	}
	return r.effects
}

// readStatement reads a statement and the semicolon behind it.
func (r *effectsReader) readStatement() {
	r.depth, r.selects, r.last, r.into = 0, false, 0, false
	r.next()
	for r.isOther("(") {
		r.next()
	}
	r.judgeFirst()
	for r.kind != tokenEnd && r.kind != tokenUnclear && !r.isOther(";") {
		r.judgeFurther()
	}
}

// judgeFirst judges a statement by its first word.
func (r *effectsReader) judgeFirst() {
	var buf [maxFolded]byte
	switch string(r.folded(&buf)) {
	case "select", "insert", "update", "delete", "merge", "values", "table", "with", "truncate",
		"begin", "start", "abort", "savepoint", "release",
		"listen", "notify", "unlisten", "show", "copy", "lock", "declare", "fetch", "move", "close":
	case "commit", "end", "rollback":
		r.commits = r.commits || !r.isWord("rollback")
		r.next()
		if r.isWord("prepared") {
			r.forgets, r.tells = true, true
		}
	case "set", "reset":
		r.next()
		r.judgeSetting()
	case "create":
		r.forgets = true
		r.next()
		if r.isWord("local") || r.isWord("global") {
			r.next()
		}
		if !r.isWord("temp") && !r.isWord("temporary") {
			r.tells = true
		}
	case "discard", "deallocate", "prepare", "execute", "load": // other sessions do not notice
		r.forgets = true
	default:
		if !r.isOther(";") && r.kind != tokenEnd {
			r.forgets, r.tells = true, true
		}
	}
}

// judgeSetting judges SET or RESET by what follows. A name with a dot is that of a custom
// setting.
func (r *effectsReader) judgeSetting() {
	if r.isWord("session") || r.isWord("local") {
		r.next()
	}
	harmless := r.isWord("transaction") || r.isWord("characteristics") || r.isWord("constraints") ||
		(r.kind == tokenWord || r.kind == tokenName) && isHarmlessSetting(r.token)
	if !harmless {
		r.next()
		r.forgets = r.forgets || !r.isOther(".")
	}
}

// judgeFurther judges one of a statement's further tokens, and reads on.
func (r *effectsReader) judgeFurther() {
	last, into := r.last, r.into
	r.last, r.into = ' ', false
	switch r.kind {
	case tokenWord:
		if r.judgeWord(last, into) {
			return
		}
	case tokenName:
		if r.judgeObject() {
			return
		}
	case tokenLiteral:
		r.clock = r.clock || namesPresent(r.token)
	case tokenEscaped:
		r.clock = true
	case tokenOther:
		switch r.last = r.token[0]; r.last {
		case '(':
			r.depth++
		case ')':
			r.depth--
		}
	}
	r.next()
}

// judgeWord judges a word by the token before it; into says that this was the INSERT or
// MERGE of INSERT INTO. Both are also names, as in SELECT 1 insert INTO t. It reports
// whether it has read on.
func (r *effectsReader) judgeWord(last byte, into bool) bool {
	switch len(r.token) { // most words are none of these
	case len("into"):
		if r.isWord("into") && !into {
			r.forgets, r.tells = true, true
		}
	case len("merge"), len("insert"):
		begins := last == 0 || last == '(' || last == ')' && r.depth <= 0 && !r.selects
		r.into = begins && (r.isWord("merge") || r.isWord("insert"))
		r.selects = r.selects || r.isWord("select") && r.depth <= 0
	case len("set_config"), len("pg_settings"):
		return r.judgeObject()
	}
	return false
}

// judgeObject judges a name, which may be that of the view or the function that changes
// settings. It reports whether it has read on.
func (r *effectsReader) judgeObject() bool {
	switch {
	case isSame(r.token, "pg_settings"):
		r.forgets = true
	case isSame(r.token, "set_config"):
		r.judgeSetConfig()
		return true
	}
	return false
}

// judgeSetConfig judges a call of set_config by its first argument.
func (r *effectsReader) judgeSetConfig() {
	r.next()
	if !r.isOther("(") {
		r.forgets = true
		return
	}
	r.depth++
	r.next()
	kind, first := r.kind, r.token
	if kind == tokenLiteral || kind == tokenParameter {
		r.next()
	}
	if !r.isOther(",") || !r.acceptSetting(kind, first) {
		r.forgets = true
	}
}

// acceptSetting reports whether a literal names a harmless setting, or an argument names
// the only one whose name is not known yet.
func (r *effectsReader) acceptSetting(kind tokenKind, first string) bool {
	switch kind {
	case tokenLiteral:
		return isHarmlessSetting(first)
	case tokenParameter:
		n, err := strconv.ParseUint(first, 10, 16)
		if err == nil && n > 0 && (r.setting == 0 || r.setting == uint16(n)) {
			r.setting = uint16(n)
			return true
		}
	}
	return false
}

// folded returns the token in lower case if it is a word that may be a key word.
func (r *effectsReader) folded(buf *[maxFolded]byte) []byte {
	if r.kind != tokenWord {
		return nil
	}
	return fold(buf, r.token)
}

func (r *effectsReader) isOther(token string) bool { return r.kind == tokenOther && r.token == token }
func (r *effectsReader) isWord(word string) bool   { return r.kind == tokenWord && isSame(r.token, word) }

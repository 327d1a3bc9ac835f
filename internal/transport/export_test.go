package transport

// ErrorText is the parser of what comes after an E in place of S or N.
var ErrorText = errorText

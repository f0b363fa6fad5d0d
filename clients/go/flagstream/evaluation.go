package flagstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
)

const (
	onePath  = "/api/v1/feature-flags/evaluate"
	manyPath = "/api/v1/feature-flags/evaluate/bulk"
)

// Who asks. Everything may be left out.
type Who struct {
	UserID      string         `json:"user_id,omitempty"`
	SessionID   string         `json:"session_id,omitempty"`
	Context     map[string]any `json:"context,omitempty"`
	Environment string         `json:"environment,omitempty"` // default: that of the client, else that of the service
}

// isShared returns whether booleans for it may be in Redis.
func (w Who) isShared() bool {
	return w.UserID != "" && w.Environment != "" && w.SessionID == "" && len(w.Context) == 0
}

// One is what can be said about one flag asked for.
type One struct {
	Default    any
	ValueType  string // boolean, string, integer, float, number or object; by default that of Default
	MinVersion uint64 // waits until this version is in force
}

// Many is what can be said about many flags asked for, each by its name.
type Many struct {
	Defaults   map[string]any
	ValueTypes map[string]string
	MinVersion uint64
}

// Evaluation is what the service says of one flag. What it says nothing of is empty.
type Evaluation struct {
	FlagName     string          `json:"flag_name"`
	Value        json.RawMessage `json:"value"`
	Enabled      bool            `json:"enabled"` // whether the flag is on for this context, whatever its type
	Variant      string          `json:"variant"`
	Reason       string          `json:"reason"` // OpenFeature's: TARGETING_MATCH, DEFAULT, DISABLED, ERROR
	ErrorCode    string          `json:"error_code"`
	ErrorMessage string          `json:"error_message"`
	Killed       bool            `json:"killed"` // whether the flag is off because of its kill switch
	FlagVersion  uint64          `json:"flag_version"`
	Environment  string          `json:"environment"`
	FlagsVersion uint64          `json:"flags_version"` // the newest version that the answer is based on
	Cached       bool            `json:"-"`             // whether it comes from a cache of the client: then it is no event
}

// Decode reads the value into a variable of its type.
func (e Evaluation) Decode(into any) error {
	if err := json.Unmarshal(e.Value, into); err != nil {
		return &Error{Kind: InvalidAnswer, Status: 200, Detail: e.FlagName + ": the value has another type", Cause: err}
	}
	return nil
}

// Any is the value as encoding/json sees it: numbers are float64.
func (e Evaluation) Any() any {
	var value any
	// The value was read as JSON before.
	_ = json.Unmarshal(e.Value, &value)
	return value
}

func (e Evaluation) boolean() (value bool, err error) {
	// A null would leave the variable as it is.
	if !bytes.Equal(e.Value, []byte("true")) && !bytes.Equal(e.Value, []byte("false")) {
		return false, invalidAnswer(200, e.FlagName+": the value is not a boolean")
	}
	return e.Value[0] == 't', nil
}

// like returns an error if the value has another type in JSON than a default.
func (e Evaluation) like(value any) error {
	if value == nil {
		return nil
	}
	encoded, err := encode(value)
	if err == nil && kindOfJSON(e.Value) != kindOfJSON(encoded) {
		err = invalidAnswer(200, e.FlagName+": the value has another type than the default")
	}
	return err
}

// kindOfJSON is the first byte of an object, a list or a text, and one letter for numbers, booleans and null.
func kindOfJSON(text []byte) byte {
	switch first := bytes.TrimLeft(text, " \t\r\n")[0]; {
	case first == 'f':
		return 't'
	case first == '-' || first >= '0' && first <= '9':
		return '0'
	default:
		return first
	}
}

type question struct {
	FlagName   string            `json:"flag_name,omitempty"`
	FlagNames  []string          `json:"flag_names,omitempty"`
	Default    any               `json:"default_value,omitempty"`
	Defaults   map[string]any    `json:"default_values,omitempty"`
	ValueType  string            `json:"value_type,omitempty"`
	ValueTypes map[string]string `json:"value_types,omitempty"`
	Who
}

// oneQuestion has a flag's name even if it is empty: that is an error which the service reports.
type oneQuestion struct {
	question
	FlagName string `json:"flag_name"`
}

// The same for the same question, and of one length.
func keyOf(flag string, who Who, value any, valueType string) (key, error) {
	encoded, err := encode([]any{flag, who, value, valueType})
	return sha256.Sum256(encoded), err
}

func encode(body any) ([]byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, &Error{Kind: InvalidRequest, Detail: "context, default or metadata: not JSON: " + err.Error(), Cause: err}
	}
	return encoded, nil
}

func one(answer []byte) (Evaluation, error) {
	var said struct {
		Evaluation
		Enabled *bool `json:"enabled"`
	}
	if err := decode(answer, &said); err != nil {
		return Evaluation{}, err
	}
	return checked(said.Evaluation, said.Enabled)
}

func many(answer []byte, flags []string) (map[string]Evaluation, error) {
	var around struct {
		Results map[string]struct {
			Evaluation
			Enabled *bool `json:"enabled"`
		} `json:"results"`
		Environment  string `json:"environment"`
		FlagsVersion uint64 `json:"flags_version"`
	}
	if err := decode(answer, &around); err != nil {
		return nil, err
	}
	found := make(map[string]Evaluation, len(flags))
	for _, flag := range flags {
		said := around.Results[flag]
		evaluation, err := checked(said.Evaluation, said.Enabled)
		if err != nil {
			return nil, err
		}
		evaluation.FlagName, evaluation.Environment, evaluation.FlagsVersion = flag, around.Environment, around.FlagsVersion
		found[flag] = evaluation
	}
	return found, nil
}

func decode(answer []byte, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return &Error{Kind: InvalidAnswer, Status: 200, Detail: "unexpected response: " + err.Error(), Cause: err}
	}
	return nil
}

func checked(evaluation Evaluation, enabled *bool) (Evaluation, error) {
	if evaluation.Value == nil || enabled == nil || evaluation.Reason == "" {
		return Evaluation{}, invalidAnswer(200, "unexpected response: value, enabled or reason is missing")
	}
	evaluation.Enabled = *enabled
	return evaluation, nil
}

// The answer where there is none.
func failed(flag string, value any, err error) Evaluation {
	encoded, unencodable := json.Marshal(value)
	if unencodable != nil {
		encoded = []byte("null")
	}
	return Evaluation{FlagName: flag, Value: encoded, Reason: "ERROR", ErrorCode: "GENERAL", ErrorMessage: err.Error()}
}

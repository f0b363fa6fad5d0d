package flagstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options are what a client can be told. The zero value of each is its default.
type Options struct {
	Environment      string        // default: the service's
	Token            string        // an API token (fst_…)
	Timeout          time.Duration // for a call with all its attempts: 5 s
	AttemptTimeout   time.Duration // for one attempt: 3 s; more than the 2 s that the service may wait for a version
	MaxRetries       int           // after a passing failure: 2; -1 is none
	BackoffBase      time.Duration // the first wait is a random part of it, each next of twice as much: 100 ms
	BackoffCap       time.Duration // no wait is longer: 2 s
	FailureThreshold int           // failed attempts in a row that open the circuit: 5
	RecoveryTimeout  time.Duration // how long it stays open: 60 s
	Cache            bool          // keep answers here
	CacheTTL         time.Duration // 300 s
	CacheMaxEntries  int           // 10,000
	// FollowChanges listens to /api/v1/changes, so that what is kept is never older than a change heard of. It implies Cache and
	// needs the scope read.
	FollowChanges bool
	// Transport brings own TLS settings or proxies.
	Transport http.RoundTripper
	// OnError is told of each failure that a default hides. By default it is logged.
	OnError func(error)
	// OnWarning is told, once for each environment and code, that the service answers with defaults because of an error, with the
	// first such answer. By default it is logged.
	OnWarning func(Evaluation)

	now func() time.Time // replaced in tests
}

// New makes a client. Make one, share it, close it.
func New(configServiceURL string, options Options) (*Client, error) {
	address, err := url.Parse(configServiceURL)
	if err != nil || (address.Scheme != "http" && address.Scheme != "https") || address.Host == "" {
		return nil, fmt.Errorf("flagstream: configServiceURL: expected http://… or https://…, got %q", configServiceURL)
	}
	for name, value := range map[string]int64{
		"Timeout": int64(options.Timeout), "AttemptTimeout": int64(options.AttemptTimeout), "BackoffBase": int64(options.BackoffBase),
		"BackoffCap": int64(options.BackoffCap), "FailureThreshold": int64(options.FailureThreshold),
		"RecoveryTimeout": int64(options.RecoveryTimeout), "CacheTTL": int64(options.CacheTTL), "CacheMaxEntries": int64(options.CacheMaxEntries),
	} {
		if value < 0 {
			return nil, fmt.Errorf("flagstream: %s: expected 0 or more, got %d", name, value)
		}
	}
	options = options.withDefaults()
	entries := 0
	if options.Cache || options.FollowChanges {
		entries = options.CacheMaxEntries
	}
	life, end := context.WithCancel(context.Background())
	client := &Client{
		base:    strings.TrimRight(configServiceURL, "/"),
		options: options,
		cache:   newCache(entries, options.CacheTTL, options.now),
		breaker: &breaker{threshold: options.FailureThreshold, recovery: options.RecoveryTimeout, now: options.now},
		http: &http.Client{Transport: options.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		life:  life,
		end:   end,
		heard: make(chan struct{}),

		warned: map[[2]string]bool{},
	}
	if options.FollowChanges {
		client.followers.Add(1)
		go client.follow()
	}
	return client, nil
}

func (o Options) withDefaults() Options {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.AttemptTimeout = cmp.Or(o.AttemptTimeout, 3*time.Second)
	o.MaxRetries = cmp.Or(o.MaxRetries, 2)
	o.BackoffBase = cmp.Or(o.BackoffBase, 100*time.Millisecond)
	o.BackoffCap = cmp.Or(o.BackoffCap, 2*time.Second)
	o.FailureThreshold = cmp.Or(o.FailureThreshold, 5)
	o.RecoveryTimeout = cmp.Or(o.RecoveryTimeout, time.Minute)
	o.CacheTTL = cmp.Or(o.CacheTTL, 5*time.Minute)
	o.CacheMaxEntries = cmp.Or(o.CacheMaxEntries, 10_000)
	if o.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		// Two by default: under load each further connection would be closed after its call.
		transport.MaxIdleConnsPerHost = 100
		o.Transport = transport
	}
	if o.OnError == nil {
		o.OnError = func(err error) { slog.Warn("flagstream: a default is answered", "error", err) }
	}
	if o.OnWarning == nil {
		o.OnWarning = func(e Evaluation) {
			slog.Warn("flagstream: answered with the default (logged once for this environment and code)",
				"flag", e.FlagName, "environment", e.Environment, "code", e.ErrorCode, "message", e.ErrorMessage)
		}
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

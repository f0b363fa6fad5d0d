package flagstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Options of a client. The zero value of each is its default.
type Options struct {
	Environment      string        // default: ENVIRONMENT, else the service's
	Token            string        // an API token (fst_…)
	Timeout          time.Duration // for a call with all its attempts: 5 s
	AttemptTimeout   time.Duration // for one attempt: 3 s; more than the 2 s that the service may wait for a version
	MaxRetries       int           // after a passing failure: 2; -1 is none
	BackoffBase      time.Duration // the first wait is a random part of it, each next of twice as much: 100 ms
	BackoffCap       time.Duration // no wait is longer: 2 s
	FailureThreshold int           // failed attempts in a row that open the circuit: 5
	RecoveryTimeout  time.Duration // how long it stays open: 60 s
	Cache            bool          // cache answers in memory; with Redis as a layer above it
	CacheTTL         time.Duration // 300 s; given, it turns the cache on
	LocalTTL         time.Duration // in memory above Redis: 60 s
	CacheMaxEntries  int           // in memory: 10,000
	// Redis caches booleans for users without context, which services in all languages share.
	Redis RedisStore
	// FollowChanges reads /api/v1/changes, so that a cached answer is never older than a change received. It turns the cache on, and
	// needs the scope read.
	FollowChanges bool
	// Traceparent returns the W3C traceparent of the call's context, which events carry.
	Traceparent func(ctx context.Context) string
	// Transport brings own TLS settings or proxies.
	Transport http.RoundTripper
	// OnError receives each failure that a default hides. By default it is logged.
	OnError func(error)
	// OnWarning receives, once for each environment and code, an answer that is the default because of an error.
	// By default it is logged.
	OnWarning func(Evaluation)

	now func() time.Time // replaced in tests
}

// New returns a client. Create one for the whole process, and close it. The default of the address is CONFIG_SERVICE_URL.
func New(configServiceURL string, options Options) (*Client, error) {
	if configServiceURL == "" {
		configServiceURL = os.Getenv("CONFIG_SERVICE_URL")
	}
	address, err := url.Parse(configServiceURL)
	if err != nil || (address.Scheme != "http" && address.Scheme != "https") || address.Host == "" {
		return nil, fmt.Errorf("flagstream: configServiceURL (or CONFIG_SERVICE_URL): expected http://… or https://…, got %q", configServiceURL)
	}
	for name, value := range map[string]int64{
		"Timeout": int64(options.Timeout), "AttemptTimeout": int64(options.AttemptTimeout), "BackoffBase": int64(options.BackoffBase),
		"BackoffCap": int64(options.BackoffCap), "FailureThreshold": int64(options.FailureThreshold),
		"RecoveryTimeout": int64(options.RecoveryTimeout), "CacheTTL": int64(options.CacheTTL), "LocalTTL": int64(options.LocalTTL),
		"CacheMaxEntries": int64(options.CacheMaxEntries),
	} {
		if value < 0 {
			return nil, fmt.Errorf("flagstream: %s: expected 0 or more, got %d", name, value)
		}
	}
	options = options.withDefaults()
	life, end := context.WithCancel(context.Background())
	client := &Client{
		listeners: newListeners(),

		base:    strings.TrimRight(configServiceURL, "/"),
		options: options,
		cache:   newCache(options),
		breaker: &breaker{threshold: options.FailureThreshold, recovery: options.RecoveryTimeout, now: options.now},
		http: &http.Client{Transport: options.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		life:    life,
		end:     end,
		arrived: make(chan struct{}),

		warned: map[[2]string]bool{},
	}
	if options.FollowChanges {
		client.followers.Add(1)
		go client.follow()
	}
	return client, nil
}

func (o Options) withDefaults() Options {
	// A lifetime, or changes, turn the cache on: in Redis if there is one, else in memory.
	o.Cache = o.Cache || (o.Redis == nil && (o.CacheTTL > 0 || o.FollowChanges))
	o.Environment = cmp.Or(o.Environment, os.Getenv("ENVIRONMENT"))
	o.LocalTTL = cmp.Or(o.LocalTTL, time.Minute)
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

package flagstream

import "sync"

const (
	// maxEnvironments: changes of further environments count for all environments.
	maxEnvironments = 1_000
	// maxFlags: changes of further flags count for all flags of their environment.
	maxFlags = 10_000
)

// FlagChange is a change of flags that was announced.
type FlagChange struct {
	Type        string `json:"event_type"`  // FEATURE_FLAG_CREATED, FEATURE_FLAG_UPDATED, FEATURE_FLAG_DELETED, or RESET: any flag may have changed
	FlagName    string `json:"flag_name"`   // empty if any flag may have changed
	Environment string `json:"environment"` // empty for all environments
	Version     uint64 `json:"version"`
}

// announcements has the newest announced versions: by environment, and by flag.
//
// An answer of the service carries the newest version that it knew, so it is compared with all changes of its environment: flags
// depend on each other, and only the service knows how. A value that flagstream wrote to Redis carries the version of its flag,
// and a second one only if it depends on others.
type announcements struct {
	mutex         sync.Mutex
	byEnvironment map[string]uint64 // under "" that of all
	ofAnyFlag     map[string]uint64
	byFlag        map[[2]string]uint64
}

func newAnnouncements() *announcements {
	return &announcements{byEnvironment: map[string]uint64{}, ofAnyFlag: map[string]uint64{}, byFlag: map[[2]string]uint64{}}
}

// add records a change.
func (a *announcements) add(change FlagChange) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	environment := change.Environment
	if _, known := a.byEnvironment[environment]; !known && len(a.byEnvironment) >= maxEnvironments {
		environment = ""
	}
	a.byEnvironment[environment] = max(change.Version, a.byEnvironment[environment])
	key := [2]string{environment, change.FlagName}
	_, known := a.byFlag[key]
	if change.FlagName != "" && (known || len(a.byFlag) < maxFlags) {
		a.byFlag[key] = max(change.Version, a.byFlag[key])
	} else {
		a.ofAnyFlag[environment] = max(change.Version, a.ofAnyFlag[environment])
	}
}

// begin records where a stream of changes begins: earlier ones were not announced to this client.
func (a *announcements) begin(version uint64) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.byEnvironment[""] = max(version, a.byEnvironment[""])
}

// newest is the newest announced version of all environments, or 0.
func (a *announcements) newest() (newest uint64) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for _, version := range a.byEnvironment {
		newest = max(newest, version)
	}
	return newest
}

// of is the newest announced version of an environment, or 0.
func (a *announcements) of(environment string) uint64 {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return max(a.byEnvironment[""], a.byEnvironment[environment])
}

// ofFlag is the newest announced version of a flag that depends on no other, or 0.
func (a *announcements) ofFlag(environment, flag string) uint64 {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	own := max(a.byFlag[[2]string{"", flag}], a.byFlag[[2]string{environment, flag}])
	return max(own, a.ofAnyFlag[""], a.ofAnyFlag[environment])
}

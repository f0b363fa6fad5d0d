"""Starts and stops the services that the tests run on.

cli        the commands
stack      one stack: its folder, its ports, the environment it gives to tests
native     the services as processes of this machine     | the two ways to run them,
compose    the services as containers                    | same settings, same commands
services   how each service is prepared, started, asked whether it is ready
probe      the questions of the readiness checks
process    processes that are found again, signalled and ended with all their children
install    what is fetched, once, into the cache
"""

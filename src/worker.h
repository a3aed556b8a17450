/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  What the launcher and the worker know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_WORKER_H
#define MC_WORKER_H

#include "postgres.h"

#include "postmaster/bgworker.h"

/* true once the library is preloaded, so that there is a launcher */
extern bool mc_preloaded;

extern PGDLLEXPORT void mc_worker_main(Datum arg);
extern PGDLLEXPORT void mc_launcher_main(Datum arg);

/* a worker for a database, by oid or, where that is invalid, by name */
extern void mc_worker_describe(BackgroundWorker *worker, Oid database, const char *name);

/* registers the launcher, while shared_preload_libraries are loaded */
extern void mc_launcher_start(void);

/* Is the database in its list? */
extern bool mc_launcher_knows(const char *database);

/* Asks the launcher to start the worker of a database now; false: that is none of its. */
extern bool mc_launcher_ask(const char *database);

#endif /* MC_WORKER_H */

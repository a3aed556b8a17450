/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  What the processes of one server share: how many requests of each
 *	  Mailchimp user are open, and which engine works in which database.
 *
 * Mailchimp allows 10 simultaneous requests per user (login), over all keys,
 * databases and tools. slot_user names the user: sha256 in hex of "dc/login_id",
 * of the key while the login is not known. Plain values only in shared memory;
 * a process that ends gives back what it holds (before_shmem_exit).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_SLOT_H
#define MC_SLOT_H

#include "postgres.h"

#include "datatype/timestamp.h"

#define MC_NO_SLOT (-1)

/* _PG_init while shared_preload_libraries are loaded: reserve and hook in */
extern void mc_shared_request(void);

/*
 * Takes a slot if fewer than max are in use, and leaves so many free for the
 * rest (it may have the only one where max is no more than that). Returns
 * MC_NO_SLOT if there is none; a latch is set when one comes free.
 */
extern int mc_slot_take(const char *slot_user, int max, int spare);
extern void mc_slot_release(int slot);
extern void mc_slots_release(void); /* all of this process; an expected one is haunted */

/*
 * A request takes the slot that may run at Mailchimp until then: should we not come
 * to release it, by an error or because the process ends, the slot stays taken.
 */
extern void mc_slot_expect(int slot, TimestampTz until);

/* The request may still run at Mailchimp: the slot stays taken until then, whatever becomes of us. */
extern void mc_slot_haunt(int slot, TimestampTz until);

/* As mc_slot_take without a limit: for the ghosts that an earlier engine left. */
extern void mc_slot_take_ghost(const char *slot_user, TimestampTz until);

/*
 * The engine of this database: its process is woken by mc_engine_wake. Registering is for
 * being woken and looked up only, the singleton is proven by a lock (run.c).
 */
extern void mc_engine_register(bool is_worker);
extern void mc_engine_unregister(void);
extern int mc_engine_pid(Oid database, bool *is_worker); /* 0: none */
extern void mc_engine_wake(Oid database);
extern void mc_launcher_register(void);
extern void mc_launcher_wake(void);
extern bool mc_launcher_asked(void); /* since the last look */

#endif /* MC_SLOT_H */

/*-------------------------------------------------------------------------
 *
 * ask.h
 *	  Asking Mailchimp now, from a function that somebody called.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ASK_H
#define MC_ASK_H

#include "postgres.h"

#include "compat.h"
#include "engine.h"

/* When a call that begins now has to be done with all its requests. */
extern TimestampTz mc_ask_deadline(void);

/*
 * One request and its answer, in the current memory context. Takes a slot like any other
 * request; waits for one, and as long as Mailchimp refuses for being too busy, until the
 * deadline at most.
 */
extern McReply *mc_ask(const McConnection *connection, const char *method, const char *path,
					   const char *body, TimestampTz deadline);

/*
 * The same, and noted in the log of requests as work of that kind (of an audience; 0: of none).
 * An error takes the note along. The caller has SPI connected and is the extension's owner.
 */
extern McReply *
mc_ask_logged(const McConnection *connection, const char *kind, int32 audience_id,
			  const char *method, const char *path, const char *body, TimestampTz deadline);

/* Does the answer hold what was asked for? */
extern bool mc_reply_ok(const McReply *reply);

/* Raises what is wrong with an answer, in Mailchimp's words. */
pg_noreturn extern void mc_reply_raise(const McReply *reply);

#endif /* MC_ASK_H */

/*-------------------------------------------------------------------------
 *
 * engine.h
 *	  The engine and the struct of a kind of work.
 *
 * The engine knows kinds of work only by McKind. A kind is one C file, one SQL
 * file of the same name, and one line in the table in engine.c. Its SQL:
 *
 *	KIND_next(_connection text) RETURNS SETOF mailchimp_sync.work: the most urgent
 *		unit of that connection (which is usable and has a free slot) that is
 *		due now, or no row. Claims nothing by itself: the engine stores the row
 *		in "inflight" in the same transaction, and KIND_next leaves out what is
 *		in flight.
 *	KIND_due() RETURNS timestamptz: when the next unit of any usable connection is
 *		due, null: none.
 *	KIND_failed(inflight_id, outcome, title, detail, retry_at timestamptz): there is no
 *		usable answer (outcome not_sent, refused, doubt, answered where the answer
 *		is not about this unit: 401, 403, 429, 5xx; or error where applying
 *		raised); note it and let the unit rest until retry_at.
 *
 * and its C: apply(), called in a transaction inside an error boundary with a
 * complete answer that is about this unit: a 2xx or another 4xx.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ENGINE_H
#define MC_ENGINE_H

#include "postgres.h"

#include <cjson/cJSON.h>

#include "mailchimp_sync.h"
#include "http.h"

/* What an answer means for who asked (design: doubt) */
typedef enum McOutcome
{
	MC_ANSWERED, /* complete, in the API's JSON or an empty 2xx: no doubt */
	MC_REFUSED,	 /* 429 or 403 without JSON: no effect, later */
	MC_NOT_SENT, /* not all bytes left: no effect, later */
	MC_DOUBT	 /* sent, and no usable answer: it may have landed or still land */
} McOutcome;

/*
 * reply.c: what came back, parsed. json is owned by the memory context that was
 * current at mc_reply_read; title and detail are Mailchimp's words, or ours where it has
 * none, in the server's encoding.
 */
typedef struct McReply
{
	McOutcome outcome;
	int status;
	int retry_after_s; /* -1: none */
	cJSON *json;	   /* NULL: no body */
	char *title;	   /* of an error, else NULL */
	char *detail;
} McReply;

extern const char *mc_outcome_name(McOutcome outcome);
extern McReply *mc_reply_read(const McHttpRequest *request);

/*
 * One member of each object of a JSON array as an array argument: the way from
 * a page of JSON to one set-based statement. path is dotted ("opens.last_open"); what is
 * missing or null is NULL; objects and arrays come as their JSON text. Strings
 * come in the server's encoding, without what it cannot hold.
 */
extern McArg mc_json_column(const cJSON *array, const char *path);
extern char *mc_json_print(const cJSON *item); /* the JSON of an object or an array */
extern char *mc_json_text(const cJSON *object, const char *path); /* or NULL */
extern McArg mc_json_text_arg(const cJSON *object, const char *path);
extern McArg mc_json_int8_arg(const cJSON *object, const char *path); /* no whole number: NULL */

/* An answer without what it is all about raises: it must not pass for an empty one. */
extern McArg mc_json_needed(McArg arg, const char *what);
extern const cJSON *mc_json_needed_array(const cJSON *object, const char *name);

/* one request and what became of it */
typedef struct McUnit
{
	const struct McKind *kind;
	char *connection;
	int64 inflight_id;
	char *method;
	char *path;
	char *phase; /* the kind's own word, or NULL */
	bool writes;
	int slot;
	McHttpRequest http;
	McReply *reply; /* once there is one */
	TimestampTz started_at;
	TimestampTz ghost_until; /* it may still run at Mailchimp until then; 0: no */
	MemoryContext context;	 /* of all that is the unit's */
} McUnit;

/*
 * Whatever is bulk leaves the last slot to what somebody waits for. What goes on in the background leaves one
 * more: a campaign that is being sent may need bulk work done, its contacts brought up to date.
 */
#define MC_SPARE_BULK 1
#define MC_SPARE_BACKGROUND 2

typedef struct McKind
{
	const char *name;	   /* as in inflight.kind; its SQL functions start with it */
	int spare;			   /* slots that it leaves to what is more urgent, see MC_SPARE_ */
	bool may_be_forbidden; /* 403 may be about what is asked, as where the plan lacks it: apply() */
	void (*apply)(McUnit *unit);
} McKind;

extern const McKind mc_field_kind;
extern const McKind mc_push_kind;
extern const McKind mc_tag_kind;
extern const McKind mc_batch_kind;
extern const McKind mc_leave_kind;
extern const McKind mc_rename_kind;
extern const McKind mc_opt_out_kind;
extern const McKind mc_erase_kind;
extern const McKind mc_campaign_kind;
extern const McKind mc_test_mail_kind;
extern const McKind mc_poll_kind;
extern const McKind mc_read_kind;
extern const McKind mc_look_kind;
extern const McKind mc_refresh_kind;
extern const McKind mc_import_kind;

/* unit.c: from the claim to the applying of the reply; begin and commit are the engine's */
typedef enum McClaim
{
	MC_CLAIMED,		  /* or there is nothing to claim */
	MC_CLAIM_BLOCKED, /* somebody's open transaction is in the way */
	MC_CLAIM_FAILED
} McClaim;

extern McUnit *mc_unit_claim(const McKind *kind, const McConnection *connection, int slot,
							 MemoryContext parent, McClaim *result);
extern bool mc_unit_finish(McUnit *unit);

/*
 * engine.c: works until nothing is due (once) or for ever, sleeping until
 * something is due or somebody wakes it. begin and commit are those of the
 * process: a worker has transactions of its own, mc_run has those of its CALL. begin
 * leaves SPI connected, commit leaves no snapshot behind.
 */
typedef struct McTransaction
{
	void (*begin)(void);
	void (*commit)(void);
} McTransaction;

typedef struct McEngine McEngine;

extern McEngine *mc_engine_create(const McTransaction *transaction, bool once);
extern Oid mc_engine_extension(const McEngine *engine);
extern void mc_engine_run(McEngine *engine);

/* Tells how far another engine is; false: nothing is due any more. */
extern bool mc_engine_watch(McEngine *engine);

/* plan.c: to be called now and then in a transaction */
extern void mc_forget_bad_plans(void);

/* run.c: proves that we are the only engine of this database; false: there is another */
extern bool mc_engine_lock(Oid extension, bool is_worker);
extern void mc_engine_unlock(void);

#endif /* MC_ENGINE_H */

/*-------------------------------------------------------------------------
 *
 * mailchimp_sync.h
 *	  What the rooms of this extension share.
 *
 * Words (they mean the same everywhere, see docs/reference.md): a connection is
 * a Mailchimp account with its key; a source a relation with contacts; a contact
 * one row of a source; an audience a Mailchimp list coupled to sources by rules;
 * a member an address in a list at Mailchimp; an event says that a contact may
 * have changed; a unit is what one request does, from its claim to the
 * applying of its reply.
 *
 * HTTP (http.h) knows nothing of SQL, and what speaks SQL knows nothing of curl.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MAILCHIMP_SYNC_H
#define MAILCHIMP_SYNC_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/timestamp.h"

#define MC_EXTENSION "mailchimp_sync"
#define MC_SCHEMA "mailchimp_sync"

/* settings.c: one variable per setting, see there for meaning and units */
extern char *mc_databases;
extern bool mc_send;
extern char *mc_instance;
extern int mc_max_connections;
extern int mc_batch_size;
extern int mc_connect_timeout;	  /* ms */
extern int mc_request_timeout;	  /* ms */
extern int mc_max_response;		  /* kB */
extern int mc_expression_timeout; /* ms */
extern int mc_poll_spread;		  /* ms */
extern int mc_log_retention;	  /* s */
extern int mc_activity_retention; /* s, 0 none */
extern int mc_signal_retention;	  /* s */
extern bool mc_store_ip;
extern Interval mc_clock_offset;
extern void mc_define_settings(void);

/* clock.c: the only place that reads the time for anything but HTTP timeouts */
extern TimestampTz mc_clock_now(void);
extern TimestampTz mc_clock_transaction(void);
extern TimestampTz mc_add_offset(TimestampTz time, const Interval *offset);

/*
 * identity.c: who is asking, and acting as the extension's owner (gate.h has the
 * way in for public functions).
 *
 * mc_become() switches to a role with the given security context and search_path
 * untouched; mc_restore() goes back. Neither survives an error: whoever raises
 * one leaves it to the abort of the (sub)transaction to put the identity back.
 */
typedef struct McIdentity
{
	Oid userid;
	int sec_context;
} McIdentity;

extern Oid mc_extension_oid(bool missing_ok);
extern Oid mc_extension_owner(void);
extern void mc_become(Oid role, int sec_context, McIdentity *saved);
extern void mc_become_owner(McIdentity *saved);
extern void mc_restore(const McIdentity *saved);

/* the role that called the public function (GetUserId() where there is none) */
extern Oid mc_caller(void);

/*
 * gate.c: pins the settings on which the text of a value depends; undo with
 * AtEOXact_GUC(true, the level that is returned). Keys are compared as such text.
 */
extern int mc_pin_output(void);

/*
 * ... and its search_path: our internal functions have one of their own, but names in
 * expressions mean what they mean to who wrote them (namespace_search_path
 * where there is no public function).
 */
extern const char *mc_caller_search_path(void);

/*
 * sql.c: one SQL statement with bound values. The caller has SPI connected and
 * is the extension's owner. Results are read with mc_result_*, which copy into
 * the caller's memory context; a NULL is a NULL pointer or the flag.
 */
typedef struct McArg
{
	Oid type;
	Datum value;
	bool isnull;
} McArg;

extern McArg mc_arg_text(const char *value); /* NULL pointer: NULL */
extern McArg mc_arg_int4(int32 value);
extern McArg mc_arg_int8(int64 value);
extern McArg mc_arg_bool(bool value);
extern McArg mc_arg_time(TimestampTz value);		  /* DT_NOEND: NULL */
extern McArg mc_arg_text_array(char **values, int n); /* a NULL element: NULL */
extern McArg mc_arg_datum(Oid type, Datum value);

extern uint64 mc_sql(const char *query, int nargs, const McArg *args);
extern uint64 mc_sql_once(const char *query, int nargs, const McArg *args);
#define MC_SQL(query, ...) \
	mc_sql(query, sizeof((McArg[]){__VA_ARGS__}) / sizeof(McArg), (McArg[]){__VA_ARGS__})
#define MC_SQL0(query) mc_sql(query, 0, NULL)

extern char *mc_result_text(uint64 row, int column);
extern int64 mc_result_int8(uint64 row, int column, bool *isnull);
extern bool mc_result_bool(uint64 row, int column);
extern TimestampTz mc_result_time(uint64 row, int column); /* NULL: DT_NOEND */

/*
 * boundary.c: the error boundary of a unit. Runs fn in an internal
 * subtransaction; false, and *error in the caller's memory context, if it
 * raised. An interrupt that ends the process or the query is never swallowed.
 */
extern bool mc_try(void (*fn)(void *arg), void *arg, ErrorData **error);
extern bool mc_is_contention(const ErrorData *error);
extern const char *mc_loggable(const ErrorData *error);
extern int mc_loggable_context(const ErrorData *error);

/* evaluate.c: whether an expression of a source is running */
extern bool mc_is_evaluating(void);

/*
 * connection.c: how to reach the account behind a connection. Loading needs a
 * transaction; it raises where there is no server, no key or no right to them.
 */
typedef struct McConnection
{
	char *name;
	char *dc;			/* us6; NULL where only an endpoint is known */
	char *base_url;		/* https://us6.api.mailchimp.com/3.0 */
	char *api_key;		/* never in a message */
	char slot_user[65]; /* whose slots its requests take, see slot.h */
	int max_connections;
} McConnection;

extern McConnection *mc_connection_load(const char *name);

/*
 * event.c / run: wake the engine of this database once this transaction has
 * committed (one transaction callback per process).
 */
extern void mc_wake_at_commit(void);

#endif /* MAILCHIMP_SYNC_H */

/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  How a public function gets from its caller to the extension's owner.
 *
 * A public function is declared LANGUAGE c AS 'MODULE_PATHNAME', 'mc_gate' and
 * (mc_gate_hidden where its arguments are secrets) and has one line in the table in gate.c; its work is the function of the same
 * name in the schema mailchimp_sync. There is nothing to write in C.
 *
 * A public function that must do something as its caller first (check
 * expressions, make a server) is C of its own: it calls mc_gate_check(), which
 * goes by the same table, works as the caller, and does what it has to do in
 * our tables by mc_as_owner(). A procedure that commits on its way has to use
 * mc_become_owner() and mc_restore() within each transaction instead, and to pin the
 * search_path there, which is its caller's; mc_caller() is the owner then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_GATE_H
#define MC_GATE_H

#include "postgres.h"

#include "fmgr.h"

typedef enum McLevel
{
	MC_READER,
	MC_MARKETER,
	MC_ADMIN,
	MC_WEBHOOK /* a program that passes on what Mailchimp tells */
} McLevel;

/* On what the caller needs the level: where the connection comes from. */
typedef enum McScope
{
	MC_NOTHING,		   /* (of a null argument: it may not be null) */
	MC_ANY,			   /* on any connection: what belongs to none */
	MC_ALL,			   /* by a grant on all connections */
	MC_CONNECTION,	   /* the argument is its name */
	MC_NEW_CONNECTION, /* the same; on any where there is none of that name */
	MC_AUDIENCE,	   /* the argument is an audience of it */
	MC_CAMPAIGN		   /* the argument is a campaign of it */
} McScope;

/* Something that takes a level: a call, or a change of a view's row. */
typedef struct McDemand
{
	const char *kind; /* "function" or "view" */
	const char *name;
	McLevel level;
	McScope scope;
	const char *object; /* that the scope is about, as text */
} McDemand;

/* level.c: raises unless the caller has it; as the owner, with SPI connected. */
extern void mc_check_level(const McDemand *demand);
extern const char *mc_level_name(McLevel level);
extern McLevel mc_find_level(const char *name);
extern McScope mc_find_scope(const char *kind);

/* Raises unless the caller has the level that the called function takes. */
extern void mc_gate_check(FunctionCallInfo fcinfo);

/*
 * Runs work as the extension's owner with a pinned search_path; mc_caller() and
 * mc_caller_search_path() (mailchimp_sync.h) tell inside who asked, and where
 * their names are looked up.
 */
extern void mc_as_owner(void (*work)(void *arg), void *arg);

#endif /* MC_GATE_H */

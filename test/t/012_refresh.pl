# The engine fetches by itself what an account has: who it is, lists, templates, sending domains, merge fields of coupled
# lists; once a day, page by page, and what fails keeps nothing else (R3, R5, R25, R109).

use strict;
use warnings;
use JSON::PP ();
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 3);
my ($sim, $node, $list) = @$crm{qw(sim node list)};
my $account = $crm->{demo}{account_id};
my %template = map { $_->{name} => $_->{id} } @{ $crm->{demo}{templates} };
my $day = 86400;

sub act { my (%act) = @_; return $sim->post('/_sim/act', \%act) }

# What was fetched by the engine since the last look.
sub fetched { return join ', ', sort map { "$_->{route} " . ($_->{status} // '-') } grep { McTest::is_refresh($_) } $crm->journal }
sub fetched_after { my ($seconds) = @_; $crm->later($seconds); $crm->run; return fetched() }
sub templates { return $crm->rita("SELECT string_agg(concat_ws(' ', name, CASE WHEN NOT active THEN 'deleted' END), ', ' ORDER BY name) FROM mc_template") }
sub failures { return $crm->rita("SELECT field, audience, title, attempts, next_attempt_at IS NOT NULL FROM mc_failure WHERE work = 'refresh' ORDER BY 1") }

my $all = 'GET / 200, GET /lists 200, GET /lists/{list_id}/merge-fields 200, GET /templates 200, GET /verified-domains 200';

# ---- once a day

$crm->run;
is(fetched(), 'GET /lists/{list_id}/merge-fields 200', 'R109: fields of a list that was coupled since mc_connect, and no more');
is($crm->rita("SELECT string_agg(tag, ' ' ORDER BY tag) FROM mc_merge_field WHERE audience = 'people'"), 'EMAIL FNAME LNAME', 'before it is switched on');
$crm->sync;
is(fetched_after($day - 3600), '', 'not before a day has passed');

act(account => $account, action => 'add_template', name => 'New');
act(template => $template{Invitation}, action => 'edit', name => 'Invitation 2027');
act(template => $template{Newsletter}, action => 'delete');
act(template => $template{Unfinished}, action => 'remove');
act(account => $account, action => 'set_domain', domain => 'example.org', verified => JSON::PP::true, authenticated => JSON::PP::false);
act(account => $account, action => 'set_domain', domain => 'Example.NET');
act(account => $account, action => 'rename', name => 'Renamed');
act(list => $list, action => 'add_field', tag => 'CITY', name => 'City', type => 'text');
my $checked = $crm->rita('SELECT checked_at FROM mc_connection');
is(fetched_after(3700), $all, 'then all of it');
is(templates(), 'Invitation 2027, New, Newsletter deleted', 'R3, R25: templates that are new, renamed, deleted or not listed any more');
is($crm->rita("SELECT string_agg(concat_ws(' ', domain, verified, authenticated), ', ' ORDER BY domain) FROM mc_domain"),
	'example.net t t, example.org t f', 'R5: domains');
is($crm->rita("SELECT account_name, checked_at > '$checked' FROM mc_connection"), 'Renamed|t', 'whose key it is, and when that was asked');
is($crm->rita("SELECT name, mapped FROM mc_merge_field WHERE audience = 'people' AND tag = 'CITY'"), 'City|f', 'merge fields');
is(fetched_after($day - 60), '', 'and again a day after that');
is(fetched_after(120), $all, 'all of it');
$crm->max("SELECT mc_refresh('main')");
fetched();
is(fetched_after($day - 60), '', 'a mc_refresh counts');
$crm->ann("SELECT mc_pause('main')");
is(fetched_after(120), '', 'nothing is asked for a connection that is paused');
$crm->ann("SELECT mc_resume('main')");
is(fetched_after(0), $all, 'but after that');

# ---- what fails rests, longer each time, and does not keep the others; it is no alarm

my $forbidden = $sim->fault(path => '^/lists$', times => -1, fault => { type => 'status', status => 403, json => JSON::PP::true });
my $missing = $sim->fault(path => 'merge-fields$', times => -1, fault => { type => 'status', status => 404, json => JSON::PP::true });
act(account => $account, action => 'add_template', name => 'Newest');
is(fetched_after($day + 60), $all =~ s/lists 200/lists 403/r =~ s/fields 200/fields 404/r, 'two of five fail');
like(templates(), qr/Newest/, 'the others are fetched');
is(failures(), "fields|people|Resource Not Found|1|t\nlists||Forbidden|1|t", 'N8: with Mailchimp\'s words');
is($crm->rita('SELECT count(*) FROM mc_list'), 1, 'what was known stays');
is($crm->rita("SELECT string_agg(item, ', ') FROM mc_status WHERE NOT ok AND item <> 'worker'"), '', 'no alarm');
is($crm->status, 'in_sync 3', 'and contacts are not concerned');
$crm->ann("UPDATE crm.candidate SET first_name = 'x' WHERE id = 1");
is(fetched_after(1), '', 'they rest');
is($crm->member('c1@crm.test')->{merge_fields}{FNAME}, 'x', 'while contacts go on');
is(fetched_after(60), 'GET /lists 403, GET /lists/{list_id}/merge-fields 404', 'for a minute');
is(fetched_after(61), '', 'then for two');
is(fetched_after(60), 'GET /lists 403, GET /lists/{list_id}/merge-fields 404', 'and so on');
$sim->delete("/_sim/faults/$_") for $forbidden, $missing;
is($crm->max('SELECT mc_retry()'), 2, 'N8: mc_retry ends the rests');
is(fetched_after(0), 'GET /lists 200, GET /lists/{list_id}/merge-fields 200', 'and they are fetched');
is(failures(), '', 'which ends the failures');

# an answer that is none
$sim->fault(path => '^/verified-domains$', fault => { type => 'status', status => 200, body => { something => 'else' } });
is(fetched_after($day + 60), $all, 'what is no list of domains');
like($crm->rita("SELECT field, detail FROM mc_failure WHERE work = 'refresh'"), qr/^domains\|.*has no "domains"/, 'is a failure');
is($crm->rita('SELECT count(*) FROM mc_domain'), 2, 'and takes nothing away');
is(fetched_after(130), 'GET /verified-domains 200', 'and is asked again');

# ---- a walk of several pages: kept up by a crash, begun anew by a failure; what is gone goes when all was seen

act(account => $account, action => 'add_template', names => [ map { sprintf 'many %04d', $_ } 1 .. 2100 ]);
is(fetched_after($day + 60), $all =~ s/templates 200/templates 200, GET \/templates 200, GET \/templates 200/r, 'pages, up to a short one');
is($crm->rita("SELECT count(*) FROM mc_template WHERE name LIKE 'many %'"), 2100, 'of them all');
act(template => $_, action => 'remove') for split /\n/, $crm->rita("SELECT template_id FROM mc_template WHERE name IN ('many 0001', 'many 2100')");
$sim->hold(path => '^/templates$', when => 'before', nth => 2);
$crm->later($day + 60);
my $session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
my ($held) = $sim->wait_held;
is($crm->rita("SELECT count(*) FROM mc_template WHERE name IN ('many 0001', 'many 2100')"), 2, 'in the midst nothing is gone');
$node->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL mc_run()%' AND pid <> pg_backend_pid()");
$sim->release;
fetched();
# what died with it would take slots for a while
like(fetched_after(140), qr{GET /templates 200, GET /templates 200}, 'an engine that comes after a crash goes on where that one was');
is(scalar(grep { $_->{query}{offset} eq '0' } $sim->journal(since => $held->{n}, route => 'GET /templates')), 0, 'not from the start');
is($crm->rita("SELECT count(*) FROM mc_template WHERE name IN ('many 0001', 'many 2100')"), 0, 'and then they are gone');
$sim->fault(path => '^/templates$', nth => 2, fault => 'reset_before');
$crm->later($day + 60);
$crm->run;
fetched();
is(fetched_after(200) =~ s/GET \/templates 200/page/gr, 'page, page, page', 'a failure begins it anew');
is($crm->rita("SELECT count(*) FROM mc_template WHERE name LIKE 'many %'"), 2098, 'nothing was lost');

# ---- somebody fetches all while a page is under way: that page ends nothing

$sim->hold(path => '^/templates$', when => 'after', nth => 1);
$crm->later($day + 60);
$session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$crm->max("SELECT mc_refresh('main')");
$sim->release;
$session->query('');
$session->quit;
is($crm->rita("SELECT count(*) FROM mc_template WHERE name LIKE 'many %'"), 2098, 'both have all of them');
fetched();
is(fetched_after(0), '', 'and nothing is left to be done');

# ---- another account behind the key, without mc_connect, is not taken for this one

$sim->fault(path => '^/$', fault => { type => 'status', status => 200, body => { account_id => 'another', account_name => 'Another' } });
$crm->later($day + 60);
$crm->run;
like($crm->rita("SELECT detail FROM mc_failure WHERE work = 'refresh' AND field = 'account'"), qr/belongs to another account/, 'said so');
is($crm->rita('SELECT account_name FROM mc_connection'), 'Renamed', 'and nothing is stored');

$node->stop;
done_testing();

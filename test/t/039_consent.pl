# Consent (D9-D12, D14, D15, D20, R45, R70, R74, R76, R79-R81, N2): nobody who unsubscribed, was cleaned, archived by hand or
# deleted at Mailchimp is subscribed again by any path. Every pair of (what Mailchimp has × what happens here) under each policy
# on_unsubscribe, all at once: each pair is a contact of its own. What is to come out is written down here, from API.md 5.4 and
# the decisions; the figures are the member's status at Mailchimp, whether any request of ours could have subscribed it, and the mails.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use McCrm;
use McTest;
use Test::More;

my @policies = qw(opt_out inactive ignore);

# What Mailchimp has of an address. "?": it came about since we looked last, so nobody here knows it yet. ours: pushed by us; adopted:
# subscribed there before us; left: archived by us, since the rule took it no more; left_unsubscribed: after that the person
# unsubscribed by an old mail.
my %there = (
	never => 'none', ours => 'subscribed', adopted => 'subscribed', pending => 'pending', transactional => 'transactional',
	map({ ("unsubscribed$_" => 'unsubscribed', "admin$_" => 'unsubscribed', "cleaned$_" => 'cleaned', "archived$_" => 'archived',
		"deleted$_" => 'none', "left_unsubscribed$_" => 'unsubscribed') } '', '?'),
	left => 'archived');
my @states = sort keys %there;
my %act = (unsubscribed => 'unsubscribe', admin => 'admin_unsubscribe', cleaned => 'clean', archived => 'archive',
	deleted => 'delete_permanent', left_unsubscribed => 'unsubscribe');

# What happens here, in two turns; %s: ids. x is the pair's address. Somebody whom the rule did not take yet enters.
my %events = (
	stay => [],
	insert => ["INSERT INTO crm.candidate (id, first_name, last_name, email) SELECT id, 'new', policy, email FROM crm.pair WHERE %s"],
	data => ["UPDATE crm.candidate SET first_name = 'changed', active = true WHERE %s"],
	rule => ["UPDATE crm.candidate SET active = false WHERE %s", "UPDATE crm.candidate SET active = true WHERE %s"],
	flip => ["UPDATE crm.candidate SET active = false WHERE %s; UPDATE crm.candidate SET active = true WHERE %s"],
	delete => ["DELETE FROM crm.candidate WHERE %s", "INSERT INTO crm.candidate (id, first_name, last_name, email) SELECT id, 'anew', policy, email FROM crm.pair WHERE %s"],
	move => ["UPDATE crm.candidate SET email = 'y' || id || '\@crm.test', active = true WHERE %s", "UPDATE crm.candidate SET email = 'x' || id || '\@crm.test' WHERE %s"],
	visit => ["UPDATE crm.candidate SET email = 'x' || id || '\@crm.test' WHERE %s", "UPDATE crm.candidate SET email = 'v' || id || '\@crm.test' WHERE %s"],
	case => ["UPDATE crm.candidate SET email = ' X' || id || '\@CRM.test ', active = true WHERE %s"],
	link => ["UPDATE crm.candidate SET linked = false WHERE %s", "UPDATE crm.candidate SET linked = true, active = true WHERE %s"],
	heir => ["UPDATE crm.candidate SET active = true WHERE %s; INSERT INTO crm.candidate (id, first_name, last_name, email) SELECT id + 100000, 'heir', policy, email FROM crm.pair WHERE %s",
		"DELETE FROM crm.candidate WHERE %s"],
	out => ["SELECT mc_opt_out('candidate', id) FROM crm.pair WHERE %s"],
	out_in => ["SELECT mc_opt_out('candidate', id) FROM crm.pair WHERE %s",
		"SELECT mc_opt_in('candidate', id) FROM crm.pair WHERE %s; UPDATE crm.candidate SET active = true WHERE %s"],
	confirm => ["SELECT mc_opt_out('candidate', id) FROM crm.pair WHERE %s",
		"SELECT mc_opt_in('candidate', id, confirm => true) FROM crm.pair WHERE %s; UPDATE crm.candidate SET active = true WHERE %s"],
	hand_in => ["SELECT mc_add_member(policy, 'candidate', id) FROM crm.pair WHERE %s"],
	hand_out => ["SELECT mc_remove_member(policy, 'candidate', id) FROM crm.pair WHERE %s",
		"UPDATE crm.candidate SET active = true WHERE %s; SELECT mc_release_member(policy, 'candidate', id) FROM crm.pair WHERE %s"],
	sync => ["UPDATE crm.candidate SET active = true WHERE %s", "SELECT mc_sync_member('candidate', id) FROM crm.pair WHERE %s"],
	retry => ["UPDATE crm.candidate SET first_name = 'once', active = true WHERE %s", "SELECT mc_retry(policy) FROM crm.pair WHERE %s LIMIT 1"],
	campaign => [],
);
my %foreign = map { $_ => 1 } qw(insert visit);				# no contact has the address before
my %leaves = map { $_ => 1 } qw(rule delete link hand_out);	# and comes back

# -----------------------------------------------------------------------------------------------------------------
# What is to come out
# -----------------------------------------------------------------------------------------------------------------

# The answer to a move is the first to show an unsubscription: the contact joins the opt-out group then and there, and the member stays
# where it is, as that of everybody in the group does. The address that it left is in the group, too, so that nobody comes to it anew.
sub first_known_by_moving { my ($state, $event, $policy) = @_; return $event eq 'move' && $policy eq 'opt_out' && $state =~ /^(unsubscribed|admin)\?$/ }

# The status in the end. Who was subscribed when we archived them comes back (D9); who had not confirmed, or was there for
# receipts alone, does not, since neither is ours to decide once more (D10). An opt-out is unsubscribed at once (D12).
sub status
{
	my ($state, $event, $policy) = @_;
	my $known = $state =~ s/\?$//r;
	my $was = $there{$state};

	return 'none' if first_known_by_moving($state, $event, $policy);
	return 'none' if $event eq 'stay' && $known eq 'never';
	return $was if $event eq 'stay';
	if ($event =~ /^(out|out_in|confirm)$/)
	{
		# who was never there and wants mail after all is a new subscriber; with confirm, when it has confirmed
		return { out => 'none', out_in => 'subscribed', confirm => 'pending' }->{$event} if $known eq 'never';
		# an unsubscribe of ours on top of what nobody here knew
		$was = 'unsubscribed' if $was =~ /^(subscribed|pending)$/ || $state eq 'cleaned?';
		return $event eq 'confirm' && $was eq 'unsubscribed' && $known ne 'cleaned' ? 'pending' : $was;
	}
	return 'archived' if $event eq 'visit' && $was =~ /^(subscribed|pending|transactional)$/;	# adopted, and left (D20)
	return 'none' if $event eq 'visit' && $known eq 'never';
	return 'archived' if $leaves{$event} && $was =~ /^(pending|transactional)$/;
	return 'subscribed' if $known =~ /^(never|left)$/;
	return $was;
}

# Another address of the contact: y, to which it moved and from which it came back; v, its own one, which it gave up for x: what
# Mailchimp says of x goes along with the contact when it comes back (D10), or is an opt-out by then (D11).
sub other
{
	my ($state, $event, $policy) = @_;
	return 'unsubscribed' if first_known_by_moving($state, $event, $policy)
		|| $event eq 'visit' && $policy eq 'opt_out' && $state =~ /^(unsubscribed|admin)/;
	return $state eq 'left' ? 'archived' : 'none' if $event eq 'move';
	return $state =~ /unsubscribed|admin|cleaned|archived|pending|transactional/ ? 'archived' : 'subscribed' if $event eq 'visit';
	return '';
}

# May a request carry the status subscribed? Only for who comes back (D9) and has not opted out since.
sub may_subscribe
{
	my ($state, $event) = @_;
	return $state eq 'left' && $event !~ /^(stay|out|out_in|confirm)$/ || $leaves{$event} && $state =~ /^(ours|adopted)$/;
}

sub mailed { my ($state, $event) = @_; return $event eq 'campaign' && $state =~ /^(?:never|ours|adopted|left)$/ ? 1 : 0 }

# Asked by a mail of Mailchimp's: who was to confirm.
sub asked { my ($state, $event, $policy) = @_; return $event eq 'confirm' && status($state, $event, $policy) eq 'pending' ? 1 : 0 }

# What the contact is after its data changed.
sub contact_state
{
	my ($state, $policy) = @_;
	return { opt_out => 'opted_out', inactive => 'inactive', ignore => 'in_sync' }->{$policy} if $state =~ /^(left_)?(unsubscribed|admin)/;
	return $state =~ /^(cleaned|archived)/ ? 'inactive' : $state =~ /^deleted/ ? 'refused' : 'in_sync';
}

# -----------------------------------------------------------------------------------------------------------------
# Making it so
# -----------------------------------------------------------------------------------------------------------------

my $crm = McCrm->start('main', demo => { lists => [ map { { name => $_, merge_fields => [ map { { tag => $_, name => $_ } } qw(FNAME LNAME) ] } } 'Customers', @policies ] });
my ($node, $sim) = @$crm{qw(node sim)};
my %list = map { $_->{name} => $_->{id} } @{ $crm->{demo}{lists} };

$crm->define(q{'{"FNAME": "first_name"}'}, q{linked => 'linked'});
$crm->ann("SELECT mc_drop_audience('people'); CREATE TABLE crm.pair (id bigint PRIMARY KEY, state text, event text, policy text, email text)");
sub create { $crm->ann("SELECT mc_create_audience('$_', 'main', '$_', 'candidate', 'active AND last_name = \$\$$_\$\$', on_unsubscribe => '$_')") for @policies }
create();

# Everything that is due; the mass-change guard is not what this is about.
sub settle
{
	$crm->run;
	while (my $stopped = $crm->ann("SELECT string_agg(format('SELECT mc_approve(%L)', audience), '; ') FROM mc_audience WHERE state = 'guard_stopped'"))
	{
		$crm->ann($stopped);
		$crm->run;
	}
}

my @pairs;
for my $policy (@policies)
{
	my $turn = 0;
	for my $event (sort keys %events)
	{
		for my $state (@states)
		{
			next if $foreign{$event} && $state =~ /^(ours|left)|\?$/ || $event eq 'stay' && $state =~ /\?$/;
			# where the policy is no matter, one of them does for each pair
			$turn++;
			next if $state !~ /unsubscribed|admin/ && $event ne 'stay' && $policy ne $policies[ $turn % 3 ];
			my $id = @pairs + 1;
			push @pairs, { id => $id, state => $state, known => $state =~ s/\?$//r, event => $event, policy => $policy, email => "x$id\@crm.test",
				list => $list{$policy}, name => "$state × $event, $policy" };
		}
	}
}
sub ids { my ($of) = @_; return 'id IN (' . join(', ', -1, map { $_->{id} } grep { $of->($_) } @pairs) . ')' }
sub act { my ($pair, $action, %more) = @_; $sim->post('/_sim/act', { list => $pair->{list}, email => $pair->{email}, action => $action, %more }) }

$crm->ann('INSERT INTO crm.pair VALUES ' . join ', ', map { "($_->{id}, '$_->{state}', '$_->{event}', '$_->{policy}', '$_->{email}')" } @pairs);
$crm->ann("INSERT INTO crm.candidate (id, first_name, last_name, email, active)
	SELECT id, 'first', policy, CASE event WHEN 'visit' THEN 'v' || id || '\@crm.test' ELSE email END, state <> 'never' OR event = 'visit'
	FROM crm.pair WHERE event <> 'insert'");
for my $pair (@pairs)
{
	act($pair, 'add', status => $pair->{known} =~ /^(pending|transactional)$/ ? $pair->{known} : 'subscribed')
	  if $pair->{known} =~ /^(adopted|pending|transactional)$/ || $foreign{ $pair->{event} } && $pair->{known} ne 'never';
	act($pair, $act{ $pair->{known} }) if $foreign{ $pair->{event} } && $act{ $pair->{known} };
}
$crm->max("SELECT mc_sync_audience('$_')") for @policies;
settle();
$crm->ann('UPDATE crm.candidate SET active = false WHERE ' . ids(sub { $_[0]{state} =~ /^left/ }));
settle();
act($_, $act{ $_->{state} }) for grep { $act{ $_->{state} } && !$foreign{ $_->{event} } } @pairs;
$crm->later(660);
settle();
act($_, $act{ $_->{known} }) for grep { $_->{state} =~ /\?$/ } @pairs;

sub statuses { return map { my $policy = $_; my %members = $crm->members($list{$policy}); map { ("$policy $_" => $members{$_}{status}) } keys %members } @policies }
sub seen { my ($members, $pair) = @_; return $members->{"$pair->{policy} $pair->{email}"} // $members->{"$pair->{policy} X$pair->{id}\@CRM.test"} // 'none' }

my %before = statuses();
is(join("\n", map { "$_->{name}: " . seen(\%before, $_) } grep { seen(\%before, $_) ne $there{ $_->{state} } } @pairs), '', scalar(@pairs) . ' pairs are set up');
$crm->journal;

# -----------------------------------------------------------------------------------------------------------------
# What happens here
# -----------------------------------------------------------------------------------------------------------------

my %campaign;
for my $policy (@policies)
{
	$campaign{$policy} = $crm->max("SELECT mc_create_campaign('$policy', '$policy', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($campaign{$policy}, 'candidate', '{" . join(',', map { $_->{id} } grep { $_->{event} eq 'campaign' && $_->{policy} eq $policy } @pairs)
		. "}'); SELECT mc_send_campaign($campaign{$policy})");
}
for my $turn (0, 1)
{
	for my $event (sort keys %events)
	{
		my $sql = $events{$event}[$turn] // next;
		$crm->ann($sql =~ s/%s/ids(sub { $_[0]{event} eq $event })/ger);
	}
	settle();
}
$crm->later(700);
settle();
is($crm->rita("SELECT string_agg(DISTINCT status, ' ') FROM mc_campaign"), 'sent', 'the campaigns are sent');

# -----------------------------------------------------------------------------------------------------------------
# What came out
# -----------------------------------------------------------------------------------------------------------------

# By list and hash: the statuses that requests since the last call told Mailchimp to set.
sub could
{
	my %could;
	for my $request ($crm->journal)
	{
		my ($list, $hash) = $request->{path} =~ m{^/lists/(\w+)(?:/members/([0-9a-f]{32}))?};
		next unless $list && $request->{method} ne 'GET' && ref $request->{body};
		$could{"$list $hash"}{ $request->{body}{status} } = 1 if $hash && $request->{body}{status};
		$could{ "$list " . md5_hex(lc($_->{email_address}) =~ s/^\s+|\s+$//gr) }{ $_->{status} // '' } = 1 for @{ $request->{body}{members} // [] };
	}
	return %could;
}
my %could = could();
my $mails = $sim->get('/_sim/mails');
my (%mailed, %asked);
$mailed{ $_->{email} }++ for @{ $mails->{mails} };
$asked{"$_->{list} $_->{email}"}++ for @{ $mails->{confirmations} };
my %after = statuses();
my $quiet = @{ $mails->{confirmations} } . ' ' . @{ $mails->{mails} };

sub outcome
{
	my ($status, $other, $subscribes, $mailed, $asked) = @_;
	return join ', ', $status, $other ? "other $other" : (), $subscribes ? 'by status' : (), $mailed ? "mailed $mailed" : (), $asked ? "asked $asked" : ();
}

for my $event (sort keys %events)
{
	my @wrong;
	for my $pair (grep { $_->{event} eq $event } @pairs)
	{
		my $key = "$pair->{list} " . md5_hex($pair->{email});
		my $asked = ($asked{"$pair->{list} $pair->{email}"} // 0) - ($pair->{known} eq 'pending' ? 1 : 0);
		my @case = ($pair->{state}, $event, $pair->{policy});
		my $wanted = outcome(status(@case), other(@case), $could{$key}{subscribed} && may_subscribe(@case), mailed(@case), asked(@case));
		my ($other) = { move => 'y', visit => 'v' }->{$event};
		my $got = outcome(seen(\%after, $pair), $other && ($after{"$pair->{policy} $other$pair->{id}\@crm.test"} // 'none'), $could{$key}{subscribed}, $mailed{ $pair->{email} }, $asked);
		push @wrong, "$pair->{state}, $pair->{policy}: $got instead of $wanted ($pair->{id})" if $got ne $wanted;
	}
	is(join("\n", @wrong), '', "$event: " . scalar(grep { $_->{event} eq $event } @pairs) . ' pairs');
}

is($crm->rita("SELECT string_agg(email, ' ' ORDER BY email) FROM mc_group_member WHERE email IN ("
		. join(', ', map { "'x$_->{id}\@crm.test', 'y$_->{id}\@crm.test'" } grep { first_known_by_moving(@$_{qw(state event policy)}) } @pairs) . ')'),
	join(' ', sort map { ("x$_->{id}\@crm.test", "y$_->{id}\@crm.test") } grep { first_known_by_moving(@$_{qw(state event policy)}) } @pairs),
	'who turns out to have unsubscribed by a move is in the opt-out group with both addresses');

my %contact = map { split /\|/ } split /\n/, $crm->rita("SELECT contact_key, state FROM mc_contact_state");
is(join("\n", map { "$_->{name}: " . ($contact{ $_->{id} } // 'none') } grep { ($contact{ $_->{id} } // 'none') ne contact_state($_->{state}, $_->{policy}) }
	grep { $_->{event} eq 'data' } @pairs), '', 'what the contacts are after their data changed');

# -----------------------------------------------------------------------------------------------------------------
# What happens to everybody
# -----------------------------------------------------------------------------------------------------------------

# Nobody's status changes, but that Mailchimp is told once more who opted out, and nobody is asked or mailed.
sub stays
{
	my ($what, $set) = @_;
	my %now = statuses();
	my %could = could();
	my $mails = $sim->get('/_sim/mails');
	is(join("\n", map { "$_->{name}: " . seen(\%now, $_) . ' instead of ' . seen(\%after, $_) } grep { seen(\%now, $_) ne seen(\%after, $_) && !($_->{event} eq 'out' && seen(\%now, $_) eq 'unsubscribed') } @pairs), '', "$what: nobody's status changes");
	is(join("\n", map { $_->{name} } grep { my $told = $could{ "$_->{list} " . md5_hex($_->{email}) } // {}; $told->{subscribed} || $told->{pending} } @pairs), '',
		"$what: no request could have subscribed anybody who was not new");
	is(@{ $mails->{confirmations} } . ' ' . @{ $mails->{mails} }, $quiet, "$what: no mails");
}
$crm->journal;

$crm->max("SELECT mc_sync_audience('$_'), mc_retry('$_')") for @policies;
settle();
stays('a full comparison, and all that failed again');

$crm->ann("SELECT mc_drop_source('candidate')");
$crm->define(q{'{"FNAME": "first_name"}'}, q{linked => 'linked'});
$crm->ann("SELECT mc_add_audience_source('$_', 'candidate', 'active AND last_name = \$\$$_\$\$')") for @policies;
$crm->max("SELECT mc_sync_audience('$_')") for @policies;
settle();
stays('a source that is dropped and made anew');

$crm->ann("SELECT mc_drop_audience('$_')") for @policies;
create();
$crm->max("SELECT mc_sync_audience('$_')") for @policies;
settle();
stays('audiences that are dropped and made anew');

$crm->ann("SELECT mc_disconnect('main')");
$node->query("CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER main OWNER TO ann");
$crm->ann("SELECT mc_connect('main', 'demo-us1')");
$crm->max("SELECT mc_sync_audience('$_')") for @policies;
settle();
stays('a connection that is made anew');

$node->query('CREATE DATABASE copy TEMPLATE postgres');
$node->query('SELECT mc_resume()', db => 'copy');
$node->query('CALL mc_run()', db => 'copy');
is($node->query("SELECT count(*) FROM mailchimp_sync.contact WHERE sent_hash IS NULL AND state = 'in_sync'", db => 'copy'), 0, 'a copy sends all anew');
stays('a copy that goes on');

$node->stop;
done_testing();

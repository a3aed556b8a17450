# The model test of audiences in both directions (R82, R85, R93, D14): the harness of McModel over three audiences, one for each policy
# of conflicts (test/model/both_*.sql), with steps on both sides (BothSteps.pm).
#
# In one burst the engine rests while people change both sides, then it does all at once: who wins is known to the last value. In
# the next it works meanwhile, among faults: both sides must come to agree, on what one of them has.

package McModel::Both;

use strict;
use warnings;
use Cpanel::JSON::XS ();
use JSON::PP;
use McModel::BothSteps;
use parent 'McModel';

my $json = Cpanel::JSON::XS->new->utf8->canonical;
our @kinds = ('crm_wins', 'mailchimp_wins', 'latest_wins');

sub audiences { return map { [ $_, 'main' ] } @kinds }
sub connections { return ('main') }
sub files { return qw(both_crm member both_truth) }
sub step { my ($self, $draw) = @_; McModel::BothSteps::one($self, $draw) }
sub note { }
sub differences { my ($self) = @_; return 'model.differences(' . ($self->{rests} ? 'true' : 'false') . ')' }

# Nothing of Mailchimp waits to be brought, but for what the CRM has refused.
sub rest { return 'NOT EXISTS (SELECT FROM mailchimp_sync.member WHERE inbound_at <= mailchimp_sync.clock())' }

sub accounts
{
	my ($self) = @_;
	my @fields = ((map { { tag => $_ } } qw(FNAME LNAME CITY NICK NOTE PHONE)), { tag => 'BORN', type => 'date' });
	my $account = $self->{sim}->post('/_sim/accounts', { key => 'main-us1', account_name => 'Main', lists => [ map { { name => $_, merge_fields => \@fields } } @kinds ] });
	$self->{list_of} = { map { $_->{name} => $_->{id} } @{ $account->{lists} } };
	$self->{sim}->post('/_sim/config', { history => JSON::PP::true });
}

sub audience
{
	my ($self, $kind) = @_;
	my $list = $self->{list_of}{$kind};
	my $on_unsubscribe = $kind eq 'crm_wins' ? 'opt_out' : 'inactive';
	$self->{ann}->query("SELECT model.add('$kind', '$on_unsubscribe'); INSERT INTO model.audience VALUES ('$kind', '$list')");
}

# From here on the sessions of people say who they are.
sub ready
{
	my ($self) = @_;
	$self->{ann}->query("SELECT mc_refresh('main')");
	$self->{ann}->query($self->all_audiences('model.begin'));
	for my $session (@$self{ 'ann', 'slow' })
	{
		$session->quit;
		$session->{first} .= "; SET model.people = 'on'";
	}
	$self->{step} = 0;
	$self->stop_worker;
	McModel::BothSteps::begin($self);
}

# ---- what steps do

# Somebody does something at Mailchimp; to a member that is not there nothing can be done.
sub act
{
	my ($self, $kind, $email, $action, $more) = @_;
	my $list = $self->{list_of}{$kind};
	my $raw = eval { $self->{sim}->post('/_sim/act', { list => $list, email => $email, action => $action, %$more }) };
	return unless $raw;
	$self->say("$action $email in $kind " . $json->encode($more));
	return $self->{ann}->query("DELETE FROM model.before WHERE list = '$list' AND address = '$email'") unless $raw->{web_id};
	my %edited = map { $_ => $raw->{merge_fields}{$_} // '' } keys %{ $more->{merge_fields} // {} };
	$edited{EMAIL} = $raw->{email_address} if $more->{new_email};
	$self->{ann}->query(join '; ', "SELECT model.act('$list', \$raw\$" . $json->encode($raw) . '$raw$)',
		map { "INSERT INTO model.edit (list, web_id, tag, value, at) VALUES ('$list', $raw->{web_id}, '$_', \$v\$$edited{$_}\$v\$, '$raw->{last_changed}')" } sort keys %edited);
}

sub members { my ($self, $kind) = @_; return sort { $a->{web_id} <=> $b->{web_id} } @{ $self->{sim}->get("/_sim/lists/$self->{list_of}{$kind}/members")->{members} } }

sub erase
{
	my ($self, $address) = @_;
	$self->sql("BEGIN; SELECT mc_erase_contact('$address'); INSERT INTO model.erased VALUES ('$address') ON CONFLICT DO NOTHING; COMMIT");
}

# ---- bursts

sub burst
{
	my ($self, $rests, @steps) = @_;
	$self->{rests} = $rests;
	$self->{doing} = $rests ? 'rest' : 'work';
	$rests ? $self->stop_worker : $self->start_worker;
	$self->end_run;
	return $self->SUPER::burst(@steps);
}

sub all_audiences { my ($self, $call) = @_; return join '; ', map { "SELECT $call('$_')" } @kinds }

sub heal
{
	my ($self) = @_;
	return $self->settle if $self->{rests};
	$self->SUPER::heal;
	# who was deleted there is found by a walk through all members alone
	$self->{ann}->query($self->all_audiences('mc_sync_audience'));
	$self->is_quiet($McTest::patience) or die "the walk does not end\n";
}

# All at once. Whom a request of ours is about while they are shown is left out, and shown again by the next read.
sub settle
{
	my ($self) = @_;
	my $quiet = 0;
	$self->{doing} = 'healing';
	for (1 .. 6)
	{
		$self->{ann}->query($self->all_audiences('mc_pull'));
		$self->{run}->query('CALL mc_run()');
		return if $self->is_quiet(0.01) && $quiet++;
		$self->{ann}->query($self->all_audiences('mc_sync_audience')) if $quiet;
		$self->later($quiet ? 660 : 5);
	}
	$self->SUPER::heal;
}

# Neither a full comparison nor a pull of what has not changed costs a request that writes, or a write to the CRM.
sub compare_again
{
	my ($self) = @_;
	my $last = $self->{sim}->get('/_sim/journal', since => 1_000_000_000)->{last};
	my $read = $self->super('SELECT mailchimp_sync.clock()');
	$self->later(660);
	$self->{ann}->query($self->all_audiences('mc_sync_audience') . '; ' . $self->all_audiences('mc_pull'));
	$self->{run}->query('CALL mc_run()');
	$self->is_quiet($McTest::patience, $read) or return 'a full comparison does not end';
	return join "\n", (map { "a full comparison makes a request: $_->{method} $_->{path}" }
		  grep { $_->{route} ne 'GET /lists/{list_id}/members' && !McTest::is_refresh($_) } $self->{sim}->journal(since => $last)),
	  grep { $_ ne '' } $self->{ann}->query('SELECT * FROM model.rewritten()');
}

1;
